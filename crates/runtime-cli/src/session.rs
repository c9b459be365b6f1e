//! Connects a session to stdin, stdout, stderr, the terminal and the signals of this process.

use std::sync::Arc;

use anyhow::Result;
use futures_util::StreamExt;
use runtime_core::{
    ByteStream, ErrorKind, Session, SessionControl, SessionInput, SessionMode, Signal, TerminalSize,
};
use tokio::sync::watch;

use crate::pipes::{self, Sink};
use crate::signals::{SignalEvent, Signals};
use crate::{style, terminal};

/// Size of a terminal that reports none.
const TERMINAL_SIZE_DEFAULT: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// Reason for the end of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The session's output ended.
    Output,
    /// The reader of this process's output is gone.
    NoReader,
    /// A signal requested termination.
    Signal(Signal),
}

/// Action after a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Continue, because the signal was forwarded.
    Continue,
    /// End now.
    End,
}

/// Returns the session mode for the options `-i` and `-t`.
pub(crate) fn mode(interactive: bool, tty: bool) -> Result<SessionMode> {
    if tty && interactive && !terminal::on_stdin() {
        anyhow::bail!("-t requires a terminal on stdin");
    }
    Ok(match (interactive, tty) {
        (_, true) => SessionMode::Terminal(terminal::size().unwrap_or(TERMINAL_SIZE_DEFAULT)),
        (true, false) => SessionMode::Stdin,
        (false, false) => SessionMode::Output,
    })
}

/// Returns the mode with the current size of the terminal.
pub(crate) fn with_current_size(mode: SessionMode) -> SessionMode {
    match mode {
        SessionMode::Terminal(before) => SessionMode::Terminal(terminal::size().unwrap_or(before)),
        other => other,
    }
}

/// Relays bytes in both directions until the output ends or `on_signal` ends the relay. The
/// session's control stays usable afterwards.
pub(crate) async fn relay(
    session: Session,
    send_stdin: bool,
    signals: &mut Signals,
    mut on_signal: impl AsyncFnMut(Signal) -> Then,
) -> Result<Ended> {
    let Session { stdin, stdout, stderr, control, .. } = session;
    let on_terminal = stderr.is_none();
    let _input = match stdin {
        Some(stdin) if send_stdin => Some(AbortOnDrop(tokio::spawn(send(stdin)))),
        // The session's stdin stays open, because a terminal whose stdin is closed hangs up.
        Some(stdin) if on_terminal => Some(AbortOnDrop(tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(stdin);
        }))),
        _ => None,
    };
    let sizes = watch::Sender::new(TERMINAL_SIZE_DEFAULT);
    let _resizes = on_terminal
        .then(|| AbortOnDrop(tokio::spawn(forward_sizes(Arc::clone(&control), sizes.subscribe()))));
    let (out_sink, err_sink) = Sink::outputs();
    let outputs = async {
        let out = copy(stdout, out_sink);
        match stderr {
            Some(stderr) => tokio::try_join!(out, copy(stderr, err_sink)).map(drop),
            None => {
                drop(err_sink);
                out.await
            }
        }
    };
    let mut outputs = std::pin::pin!(outputs);
    loop {
        tokio::select! {
            biased;
            done = &mut outputs => {
                return match done {
                    Ok(()) => Ok(Ended::Output),
                    Err(Stop::NoReader) => Ok(Ended::NoReader),
                    Err(Stop::Failed(error)) => Err(error),
                };
            }
            came = signals.next() => match came {
                SignalEvent::Resize => {
                    if let Some(size) = terminal::size().filter(|_| on_terminal) {
                        sizes.send_replace(size);
                    }
                }
                SignalEvent::Signal(signal) => {
                    if on_signal(signal).await == Then::End {
                        return Ok(Ended::Signal(signal));
                    }
                }
            }
        }
    }
}

/// Waits for `work`, for example the exit of a process that closed its outputs, and handles
/// signals.
///
/// # Errors
/// Returns the signal after which `on_signal` ended the command.
pub(crate) async fn or_signal<T>(
    work: impl Future<Output = T>,
    signals: &mut Signals,
    mut on_signal: impl AsyncFnMut(Signal) -> Then,
) -> Result<T, Signal> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            came = signals.next() => {
                if let SignalEvent::Signal(signal) = came && on_signal(signal).await == Then::End {
                    return Err(signal);
                }
            }
        }
    }
}

/// Forwards terminal sizes to a session. This runs concurrently, so that an engine that does not
/// respond blocks neither output nor signals. Only the newest size is sent.
async fn forward_sizes(control: Arc<dyn SessionControl>, mut sizes: watch::Receiver<TerminalSize>) {
    while sizes.changed().await.is_ok() {
        let size = *sizes.borrow_and_update();
        // The session may have ended; the end of its output follows.
        let _ = control.resize(size).await;
    }
}

/// Reason for stopping an output early.
enum Stop {
    /// The reader of this process's output is gone.
    NoReader,
    /// Reading the session or writing the output failed.
    Failed(anyhow::Error),
}

/// Copies a stream to an output.
async fn copy(mut stream: ByteStream, sink: Sink) -> Result<(), Stop> {
    let mut failure = None;
    while let Some(bytes) = stream.next().await {
        match bytes {
            Ok(bytes) => {
                if !sink.write(bytes).await {
                    break;
                }
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    // Chunks from before the failure are written first.
    match (sink.finish().await, failure) {
        (Err(error), _) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Stop::NoReader),
        (_, Some(failure)) => Err(Stop::Failed(failure.into())),
        (Err(error), None) => Err(Stop::Failed(error.into())),
        (Ok(()), None) => Ok(()),
    }
}

/// Sends stdin to its end.
async fn send(mut input: Box<dyn SessionInput>) {
    let mut pieces = pipes::stdin();
    while let Some(piece) = pieces.recv().await {
        let sent = match piece {
            Ok(bytes) => input.write(bytes).await,
            // The terminal is gone; SIGHUP follows.
            Err(_) => break,
        };
        // The process has exited or closed its stdin.
        if sent.is_err() {
            return;
        }
    }
    if let Err(error) = input.close().await
        && error.kind() == ErrorKind::Unsupported
    {
        style::note(format_args!("failed to close the container's stdin: {error}"));
        // Dropping the input would have no other effect.
        std::future::pending::<()>().await;
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use runtime_core::{ExecExit, async_trait};
    use tokio::sync::Notify;

    use super::*;

    /// Session whose engine responds to a resize when the test permits.
    #[derive(Default)]
    struct Stalled {
        rows: Mutex<Vec<u16>>,
        answer: Notify,
    }

    impl Stalled {
        fn rows(&self) -> Vec<u16> {
            self.rows.lock().unwrap().clone()
        }
    }

    #[async_trait]
    impl SessionControl for Stalled {
        async fn resize(&self, size: TerminalSize) -> runtime_core::Result<()> {
            self.rows.lock().unwrap().push(size.rows);
            self.answer.notified().await;
            Ok(())
        }

        async fn signal(&self, _: Signal) -> runtime_core::Result<()> {
            Ok(())
        }

        async fn wait(&self) -> runtime_core::Result<ExecExit> {
            std::future::pending().await
        }
    }

    #[test]
    fn only_terminal_mode_has_size() {
        assert_eq!(with_current_size(SessionMode::Output), SessionMode::Output);
        let now = terminal::size().unwrap_or(TERMINAL_SIZE_DEFAULT);
        let mode = with_current_size(SessionMode::Terminal(TERMINAL_SIZE_DEFAULT));
        assert_eq!(mode, SessionMode::Terminal(now));
    }

    #[tokio::test]
    async fn resize_sends_only_newest_size() {
        let control = Arc::new(Stalled::default());
        let sizes = watch::Sender::new(TERMINAL_SIZE_DEFAULT);
        let mut telling = std::pin::pin!(forward_sizes(control.clone(), sizes.subscribe()));
        assert!(futures_util::poll!(telling.as_mut()).is_pending());
        assert!(control.rows().is_empty(), "there is no new size");
        for rows in [1, 2, 3] {
            sizes.send_replace(TerminalSize { rows, columns: 80 });
            assert!(futures_util::poll!(telling.as_mut()).is_pending());
            assert_eq!(control.rows(), [1], "the engine has not responded yet");
        }
        control.answer.notify_one();
        assert!(futures_util::poll!(telling.as_mut()).is_pending());
        assert_eq!(control.rows(), [1, 3]);
        drop(sizes);
        control.answer.notify_one();
        telling.await;
    }
}
