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
        let listen = |(kind, came)| Ok((unix::signal(kind)?, came));
        Ok(Self { streams: kinds.into_iter().map(listen).collect::<io::Result<_>>()? })
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
