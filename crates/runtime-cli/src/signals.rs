//! Signals that this process receives.

use std::io;

use runtime_core::Signal;
use tokio::signal::unix::{self, SignalKind};

/// Received signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalEvent {
    /// The terminal was resized.
    Resize,
    /// A signal to handle or forward.
    Signal(Signal),
}

/// Stream of signals since its creation.
#[derive(Debug)]
pub(crate) struct Signals {
    streams: Vec<(unix::Signal, SignalEvent)>,
}

impl Signals {
    /// Registers the signal handlers.
    pub(crate) fn listen() -> io::Result<Self> {
        let kinds = [
            (SignalKind::window_change(), SignalEvent::Resize),
            (SignalKind::interrupt(), SignalEvent::Signal(Signal::INT)),
            (SignalKind::terminate(), SignalEvent::Signal(Signal::TERM)),
            (SignalKind::hangup(), SignalEvent::Signal(Signal::HUP)),
            (SignalKind::quit(), SignalEvent::Signal(Signal::QUIT)),
            (SignalKind::user_defined1(), SignalEvent::Signal(Signal::USR1)),
            (SignalKind::user_defined2(), SignalEvent::Signal(Signal::USR2)),
        ];
        // Signals that this process inherited as ignored, for example from `nohup`, stay ignored; a
        // handler would change that.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = ignored(&status);
        let minded = kinds.into_iter().filter(|(_, came)| match came {
            SignalEvent::Resize => true,
            SignalEvent::Signal(signal) => !is_in(ignored, signal.number()),
        });
        let listen = |(kind, came)| Ok((unix::signal(kind)?, came));
        Ok(Self { streams: minded.map(listen).collect::<io::Result<_>>()? })
    }

    /// Returns the next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> SignalEvent {
        std::future::poll_fn(|cx| {
            for (stream, came) in &mut self.streams {
                if stream.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*came);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Waits for a signal that requests termination.
    pub(crate) async fn end(&mut self) -> Signal {
        loop {
            match self.next().await {
                SignalEvent::Signal(signal) if ![Signal::USR1, Signal::USR2].contains(&signal) => {
                    return signal;
                }
                _ => {}
            }
        }
    }
}

/// Returns the mask of ignored signals from `/proc/PID/status` (proc_pid_status(5)). The lowest bit
/// is signal 1.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Returns true if the mask contains a signal.
fn is_in(mask: u64, signal: u8) -> bool {
    let bit = u32::from(signal).checked_sub(1);
    bit.and_then(|bit| mask.checked_shr(bit)).is_some_and(|rest| rest & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_parsed_from_proc_status() {
        // As under `nohup`; Rust programs ignore SIGPIPE.
        let status = "Name:\truntime\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\n\
                      SigCgt:\t0000000000000440\n";
        let mask = ignored(status);
        assert!(is_in(mask, Signal::HUP.number()) && is_in(mask, 13));
        for signal in [Signal::INT, Signal::TERM, Signal::QUIT, Signal::USR1, Signal::USR2] {
            assert!(!is_in(mask, signal.number()), "{signal}");
        }
        assert!(is_in(ignored("SigIgn:\t8000000000000000"), 64));
        assert!(!is_in(u64::MAX, 0) && !is_in(u64::MAX, 65));
        for none in ["", "SigIgn:", "SigIgn:\tmany", "SigBlk:\t0000000000000001"] {
            assert_eq!(ignored(none), 0, "{none:?}");
        }
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(own.contains("\nSigIgn:"), "{own}");
    }
}
