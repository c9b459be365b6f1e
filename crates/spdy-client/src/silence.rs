//! Whether the other side is silent because it is gone.
//!
//! The known server (the Go package spdystream) reads no further while a process does not read its
//! input: its queues are full then, and pings wait behind them. Such a silence proves nothing. So the
//! silence counts only if the input that was sent fits into the buffer of a terminal, or a later ping
//! has shown that the server has taken it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// As much input as the smallest buffer between a server and a process holds, in bytes: that of a
/// terminal.
const HARMLESS_INPUT: usize = 4096;

/// The signs of life of the other side.
#[derive(Debug)]
pub(crate) struct Silence {
    /// When the last byte arrived, or reading began again.
    since: Instant,
    /// How much was sent on streams.
    sent: usize,
    /// The first ping after the last data that was sent, until it is answered.
    unconfirmed: Option<u32>,
    /// The pings without an answer.
    outstanding: VecDeque<u32>,
    /// Whether a ping was answered before an older one: a part of the server is stuck.
    is_stuck: bool,
}

impl Silence {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            sent: 0,
            unconfirmed: None,
            outstanding: VecDeque::new(),
            is_stuck: false,
        }
    }

    /// Something arrived, or could not arrive because nothing was read.
    pub(crate) fn broken(&mut self) {
        self.since = Instant::now();
    }

    /// Returns whether nothing has arrived for this time.
    pub(crate) fn is_quiet(&self, time: Duration) -> bool {
        self.since.elapsed() >= time
    }

    /// Data was sent, and `next_ping` will be sent after it.
    pub(crate) fn sent(&mut self, length: usize, next_ping: u32) {
        self.sent = self.sent.saturating_add(length);
        self.unconfirmed = Some(next_ping);
    }

    pub(crate) fn pinged(&mut self, id: u32) {
        self.outstanding.push_back(id);
    }

    pub(crate) fn answered(&mut self, id: u32) {
        let Some(at) = self.outstanding.iter().position(|ping| *ping == id) else { return };
        self.outstanding.remove(at);
        self.is_stuck = at > 0;
        // Ids are compared by the order in which they were sent: they wrap around.
        if self.unconfirmed.is_some_and(|first| id.wrapping_sub(first) < u32::MAX / 2) {
            self.unconfirmed = None;
        }
    }

    /// Whether the other side has been silent for `limit`, with no reason that is known.
    pub(crate) fn is_over(&self, limit: Duration) -> bool {
        let may_be_busy =
            self.sent > HARMLESS_INPUT && (self.unconfirmed.is_some() || self.is_stuck);
        !may_be_busy && self.since.elapsed() >= limit
    }
}
