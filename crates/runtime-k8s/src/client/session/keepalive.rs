//! Keepalive of sessions.
//!
//! A session may be silent for hours. Pings keep its connection in the tables of load balancers,
//! and the responses show that the server is alive. kubectl uses the same interval and timeout.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Interval of the pings of a session, and the timeout of a silent server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keepalive {
    pub(crate) interval: Duration,
    pub(crate) limit: Duration,
}

/// Maximum number of consecutive pings without a response.
const MISSED_PINGS_MAX: u32 = 12;

impl Keepalive {
    /// Returns a keepalive with this interval. With the default interval the timeout is a minute.
    pub(crate) fn every(interval: Duration) -> Self {
        let limit = runtime_core::bounded(interval.saturating_mul(MISSED_PINGS_MAX));
        Self { interval, limit }
    }
}

/// Capacity of the smallest buffer between a server and a process, in bytes: that of a terminal.
const BUFFERED_INPUT_BYTES: usize = 4096;

/// Tracks the pings and the input of a session over a WebSocket.
///
/// A server that forwards input to a process that does not read it does not respond to pings. So a
/// silence counts only if the input fits into the buffers, or the response to a later ping has
/// shown that the server has forwarded all input.
#[derive(Debug, Default)]
pub(crate) struct PingTracker {
    /// The number of the next ping.
    next: AtomicU64,
    /// The number of bytes of input that were sent.
    sent: AtomicUsize,
    /// The number of the first ping after the last input.
    wanted: AtomicU64,
    /// The number after that of the last answered ping.
    answered: AtomicU64,
}

impl PingTracker {
    /// Returns the payload of the next ping.
    pub(crate) fn ping(&self) -> [u8; 8] {
        self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes()
    }

    /// Records the response to a ping.
    pub(crate) fn pong(&self, payload: &[u8]) {
        if let Ok(number) = <[u8; 8]>::try_from(payload) {
            let number = u64::from_be_bytes(number).saturating_add(1);
            self.answered.fetch_max(number, Ordering::Relaxed);
        }
    }

    /// Records that input of this length is sent now.
    pub(crate) fn input(&self, length: usize) {
        self.sent.fetch_add(length, Ordering::Relaxed);
        self.wanted.store(self.next.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Returns whether the server may be waiting for a process that does not read.
    pub(crate) fn may_be_busy(&self) -> bool {
        self.sent.load(Ordering::Relaxed) > BUFFERED_INPUT_BYTES
            && self.answered.load(Ordering::Relaxed) <= self.wanted.load(Ordering::Relaxed)
    }
}
