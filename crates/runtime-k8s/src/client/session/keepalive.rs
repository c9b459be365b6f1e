//! Signs of life of sessions.
//!
//! A session may be quiet for hours. Pings keep its connection in the tables of balancers, and their
//! answers show that the server is still there. kubectl sends as many, and waits as long.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How often sessions are pinged, and how long the server may be silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heartbeat {
    pub(crate) interval: Duration,
    pub(crate) limit: Duration,
}

/// How many pings in a row may have no answer.
const MISSED: u32 = 12;

impl Heartbeat {
    /// Pings that often. The limit is a minute with the usual interval.
    pub(crate) fn every(interval: Duration) -> Self {
        let limit = runtime_core::bounded(interval.saturating_mul(MISSED));
        Self { interval, limit }
    }
}

/// As much input as the smallest buffer between a server and a process holds, in bytes: that of a
/// terminal.
const HARMLESS_INPUT: usize = 4096;

/// The pings of a session over a WebSocket and the input among them.
///
/// A server that passes on input which the process does not read answers no ping. So a silence
/// counts only if the input is too short for that, or the answer to a later ping has shown that the
/// server has taken all of it.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// The number of the next ping.
    next: AtomicU64,
    /// How much input was sent.
    sent: AtomicUsize,
    /// The number of the first ping after the last input.
    wanted: AtomicU64,
    /// The number after that of the last ping that was answered.
    answered: AtomicU64,
}

impl Pulse {
    /// Returns the payload of the next ping.
    pub(crate) fn ping(&self) -> [u8; 8] {
        self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }

    /// The answer to a ping has arrived.
    pub(crate) fn pong(&self, payload: &[u8]) {
        if let Ok(number) = <[u8; 8]>::try_from(payload) {
            let number = u64::from_be_bytes(number).saturating_add(1);
            self.answered.fetch_max(number, Ordering::Relaxed);
        }
    }

    /// So much input is sent now.
    pub(crate) fn input(&self, length: usize) {
        self.sent.fetch_add(length, Ordering::Relaxed);
        self.wanted.store(self.next.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether the server may be waiting for a process that does not read.
    pub(crate) fn may_be_busy(&self) -> bool {
        self.sent.load(Ordering::Relaxed) > HARMLESS_INPUT
            && self.answered.load(Ordering::Relaxed) <= self.wanted.load(Ordering::Relaxed)
    }
}
