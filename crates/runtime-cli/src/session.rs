//! A session, joined to this command's own input, outputs, terminal and signals.

use std::sync::Arc;

use anyhow::Result;
use futures_util::StreamExt;
use runtime_core::{
    ByteStream, ErrorKind, Session, SessionControl, SessionInput, SessionMode, Signal, TerminalSize,
};
use tokio::sync::watch;

use crate::pipes::{self, Sink};
use crate::signals::{Came, Signals};
use crate::{style, terminal};

/// What a terminal has that nobody told its size.
const USUAL_SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

/// Why a conversation came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The other side has no more to say.
    Output,
    /// Nobody reads our output any more.
    NoReader,
    /// This signal told us to end.
    Signal(Signal),
}

/// What to do after a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Go on: it was passed on.
    GoOn,
    /// End now.
    End,
}

/// The mode that these options ask for.
pub(crate) fn mode(interactive: bool, tty: bool) -> Result<SessionMode> {
    if tty && interactive && !terminal::on_stdin() {
        anyhow::bail!("-t needs a terminal on standard input, and there is none: leave it out");
    }
    Ok(match (interactive, tty) {
        (_, true) => SessionMode::Terminal(terminal::size().unwrap_or(USUAL_SIZE)),
        (true, false) => SessionMode::Stdin,
        (false, false) => SessionMode::Output,
    })
}

/// The same mode with the size that our terminal has now.
pub(crate) fn of_this_size(mode: SessionMode) -> SessionMode {
    match mode {
        SessionMode::Terminal(before) => SessionMode::Terminal(terminal::size().unwrap_or(before)),
        other => other,
    }
}

/// Carries bytes both ways until the output ends or something else ends the conversation.
/// `on_signal` decides about each signal. The session's control outlives it.
pub(crate) async fn talk(
    session: Session,
    send_stdin: bool,
    signals: &mut Signals,
    mut on_signal: impl AsyncFnMut(Signal) -> Then,
) -> Result<Ended> {
    let Session { stdin, stdout, stderr, control, .. } = session;
    let on_terminal = stderr.is_none();
    let _input = match stdin {
        Some(stdin) if send_stdin => Some(AbortOnDrop(tokio::spawn(send(stdin)))),
        // Held open: a terminal whose input has ended hangs up.
        Some(stdin) if on_terminal => Some(AbortOnDrop(tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(stdin);
        }))),
        _ => None,
    };
    let sizes = watch::Sender::new(USUAL_SIZE);
    let _resizes = on_terminal
        .then(|| AbortOnDrop(tokio::spawn(tell_sizes(Arc::clone(&control), sizes.subscribe()))));
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
                Came::Resize => {
                    if let Some(size) = terminal::size().filter(|_| on_terminal) {
                        sizes.send_replace(size);
                    }
                }
                Came::Signal(signal) => {
                    if on_signal(signal).await == Then::End {
                        return Ok(Ended::Signal(signal));
                    }
                }
            }
        }
    }
}

/// Waits for `work` beside the signals, as for the exit of a process that has closed its outputs.
///
/// # Errors
/// The signal that `on_signal` ends the command for.
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
                if let Came::Signal(signal) = came && on_signal(signal).await == Then::End {
                    return Err(signal);
                }
            }
        }
    }
}

/// Tells a session the sizes of our terminal as they come. It is done beside the rest: an engine
/// that does not answer holds up neither the output nor the signals. Of the sizes that come
/// meanwhile only the last one counts.
async fn tell_sizes(control: Arc<dyn SessionControl>, mut sizes: watch::Receiver<TerminalSize>) {
    while sizes.changed().await.is_ok() {
        let size = *sizes.borrow_and_update();
        // It may have just ended; its output will tell.
        let _ = control.resize(size).await;
    }
}

/// Why an output stops before its end.
enum Stop {
    /// Nobody reads ours.
    NoReader,
    /// The session or our output failed.
    Failed(anyhow::Error),
}

/// Writes a stream out.
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
    // What came before a failure is not lost.
    match (sink.finish().await, failure) {
        (Err(error), _) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Stop::NoReader),
        (_, Some(failure)) => Err(Stop::Failed(failure.into())),
        (Err(error), None) => Err(Stop::Failed(error.into())),
        (Ok(()), None) => Ok(()),
    }
}

/// Sends standard input to its end.
async fn send(mut input: Box<dyn SessionInput>) {
    let mut pieces = pipes::stdin();
    while let Some(piece) = pieces.recv().await {
        let sent = match piece {
            Ok(bytes) => input.write(bytes).await,
            // A terminal that is gone: its signal says the rest.
            Err(_) => break,
        };
        // The process has ended, or reads no more.
        if sent.is_err() {
            return;
        }
    }
    if let Err(error) = input.close().await
        && error.kind() == ErrorKind::Unsupported
    {
        style::note(format_args!("the end of the input was not passed on: {error}"));
        // Dropping it could do no more.
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

    /// A session whose engine answers to a new size when it is let.
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
    fn only_a_terminal_has_a_size() {
        assert_eq!(of_this_size(SessionMode::Output), SessionMode::Output);
        let now = terminal::size().unwrap_or(USUAL_SIZE);
        let mode = of_this_size(SessionMode::Terminal(USUAL_SIZE));
        assert_eq!(mode, SessionMode::Terminal(now));
    }

    #[tokio::test]
    async fn only_the_newest_size_is_told() {
        let control = Arc::new(Stalled::default());
        let sizes = watch::Sender::new(USUAL_SIZE);
        let mut telling = std::pin::pin!(tell_sizes(control.clone(), sizes.subscribe()));
        assert!(futures_util::poll!(telling.as_mut()).is_pending());
        assert!(control.rows().is_empty(), "there is no new size");
        for rows in [1, 2, 3] {
            sizes.send_replace(TerminalSize { rows, columns: 80 });
            assert!(futures_util::poll!(telling.as_mut()).is_pending());
            assert_eq!(control.rows(), [1], "the engine has not answered yet");
        }
        control.answer.notify_one();
        assert!(futures_util::poll!(telling.as_mut()).is_pending());
        assert_eq!(control.rows(), [1, 3]);
        drop(sizes);
        control.answer.notify_one();
        telling.await;
    }
}
