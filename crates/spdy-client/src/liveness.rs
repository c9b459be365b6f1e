//! Detection of a peer that is gone.
//!
//! The only known server (the Go package spdystream) stops reading while a process does not read
//! its input, because its queues are full; pings then wait in the queues. Such a silence is no
//! proof. It therefore counts only if the input that was sent fits into a terminal's buffer, or if
//! the response to a later ping has shown that the server has read the input.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Size in bytes of the smallest buffer between a server and a process, which is that of a
/// terminal.
const SMALLEST_INPUT_BUFFER: usize = 4096;

/// Liveness state of the peer.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// Time of the last received byte, or of the resumption of reading.
    since: Instant,
    /// Number of bytes sent on streams.
    sent: usize,
    /// The first ping after the last sent data, until its response.
    unconfirmed: Option<u32>,
    /// The pings without a response.
    outstanding: VecDeque<u32>,
    /// Set if a ping was answered before an older one, which shows that a part of the server is
    /// stuck.
    is_stuck: bool,
}

impl Liveness {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            sent: 0,
            unconfirmed: None,
            outstanding: VecDeque::new(),
            is_stuck: false,
        }
    }

    /// Records received bytes, or a pause in reading.
    pub(crate) fn record_activity(&mut self) {
        self.since = Instant::now();
    }

    /// Returns true if nothing was received for `time`.
    pub(crate) fn is_quiet(&self, time: Duration) -> bool {
        self.since.elapsed() >= time
    }

    /// Records sent data; `next_ping` is the id of the next ping.
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
        // Ids wrap around, so they are compared by their distance.
        if self.unconfirmed.is_some_and(|first| id.wrapping_sub(first) < u32::MAX / 2) {
            self.unconfirmed = None;
        }
    }

    /// Returns true if the peer has been silent for `limit` without a known reason.
    pub(crate) fn is_dead(&self, limit: Duration) -> bool {
        let may_be_busy =
            self.sent > SMALLEST_INPUT_BUFFER && (self.unconfirmed.is_some() || self.is_stuck);
        !may_be_busy && self.since.elapsed() >= limit
    }
}
