//! Signals to this command.

use std::io;

use runtime_core::Signal;
use tokio::signal::unix::{self, SignalKind};

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// The terminal has another size.
    Resize,
    /// Somebody wants it to end, or to do something.
    Signal(Signal),
}

/// The signals that come from now on.
#[derive(Debug)]
pub(crate) struct Signals {
    streams: Vec<(unix::Signal, Came)>,
}

impl Signals {
    /// Listens.
    pub(crate) fn listen() -> io::Result<Self> {
        let kinds = [
            (SignalKind::window_change(), Came::Resize),
            (SignalKind::interrupt(), Came::Signal(Signal::INT)),
            (SignalKind::terminate(), Came::Signal(Signal::TERM)),
            (SignalKind::hangup(), Came::Signal(Signal::HUP)),
            (SignalKind::quit(), Came::Signal(Signal::QUIT)),
            (SignalKind::user_defined1(), Came::Signal(Signal::USR1)),
            (SignalKind::user_defined2(), Came::Signal(Signal::USR2)),
        ];
        // What we were told to mind no more, as `nohup` does it, stays so: listening would undo that.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = ignored(&status);
        let minded = kinds.into_iter().filter(|(_, came)| match came {
            Came::Resize => true,
            Came::Signal(signal) => !is_in(ignored, signal.number()),
        });
        let listen = |(kind, came)| Ok((unix::signal(kind)?, came));
        Ok(Self { streams: minded.map(listen).collect::<io::Result<_>>()? })
    }

    /// The next one. It can be dropped and called again without losing any.
    pub(crate) async fn next(&mut self) -> Came {
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

    /// Waits for one that wants this command to end.
    pub(crate) async fn end(&mut self) -> Signal {
        loop {
            match self.next().await {
                Came::Signal(signal) if ![Signal::USR1, Signal::USR2].contains(&signal) => {
                    return signal;
                }
                _ => {}
            }
        }
    }
}

/// The signals that a process ignores, by its `/proc/PID/status`: proc_pid_status(5). The lowest bit
/// is the first signal.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a signal is among these.
fn is_in(mask: u64, signal: u8) -> bool {
    let bit = u32::from(signal).checked_sub(1);
    bit.and_then(|bit| mask.checked_shr(bit)).is_some_and(|rest| rest & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signals_that_are_ignored() {
        // As under `nohup`, with the SIGPIPE that Rust's programs ignore.
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
