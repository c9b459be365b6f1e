//! Replay of output from before an attach.
//!
//! Some engines attach only to running containers, and the session then lacks the earlier output.
//! The log has that output, but only in whole lines, so a prompt would not be shown. The replay
//! combines both: it shows the log first, and switches to the session once the log contains every
//! line that the session has delivered. If the process writes without a pause, the replay never
//! switches and shows the log to its end. No line is lost or repeated.
//!
//! Input is delayed until the switch, for a limited time. Responses to input are therefore shown
//! from the session byte for byte, which the logs of some engines are not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::OptionFuture;
use futures_util::{Stream, StreamExt, stream};
use runtime_core::{
    ByteStream, Container, Follow, LogCursor, LogOptions, LogReader, LogStream, Result, Session,
    SessionControl, SessionInput, TerminalSize, async_trait,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::terminal;

/// Time without a new line after which the replay can switch. It is much longer than an engine
/// takes to write output to the log.
const QUIET_TIME_MIN: Duration = Duration::from_millis(100);

/// Longest such time, used while log and session still differ.
const QUIET_TIME_MAX: Duration = Duration::from_secs(2);

/// Maximum delay of input.
const INPUT_DELAY_MAX: Duration = Duration::from_secs(1);

/// Bytes kept of an output for comparison.
const HISTORY_BYTES_MAX: usize = 64 << 10;

/// Number of buffered chunks.
const CHANNEL_CAPACITY: usize = 4;

/// Prepends the output from before the attach to a session. The container must not have written
/// anything before the start that this session belongs to.
pub(crate) fn with_earlier_output(container: Arc<dyn Container>, session: Session) -> Session {
    let Session { stdin, stdout, stderr, control, .. } = session;
    let (to_stdout, new_stdout) = mpsc::channel(CHANNEL_CAPACITY);
    let (to_stderr, new_stderr) = mpsc::channel(CHANNEL_CAPACITY);
    let has_stderr = stderr.is_some();
    let (undecided, decided) = watch::channel(());
    let stdin = stdin.map(|inner| Box::new(Input { inner, decided }) as Box<dyn SessionInput>);
    let mut replay = Replay {
        container,
        control: Arc::clone(&control),
        undecided: Some(undecided),
        cursor: None,
        merged: false,
        stdout: Output::new(stdout, to_stdout),
        stderr: stderr.map(|stderr| Output::new(stderr, to_stderr)),
    };
    let task = tokio::spawn(async move {
        if let Err(Stop::Failed(error)) = replay.run().await {
            let _ = replay.stdout.to.send(Err(error)).await;
        }
    });
    let task = Arc::new(AbortOnDrop(task));
    let stdout = receive(new_stdout, Arc::clone(&task));
    let stderr = has_stderr.then(|| receive(new_stderr, task));
    Session::new(stdin, stdout, stderr, control)
}

/// Reason for stopping a replay early.
enum Stop {
    /// The reader is gone.
    NoReader,
    Failed(runtime_core::Error),
}

impl From<runtime_core::Error> for Stop {
    fn from(error: runtime_core::Error) -> Self {
        Self::Failed(error)
    }
}

/// Observation of the session during a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Observation {
    /// At least one line end.
    Line,
    /// No line end.
    NoLine,
    /// The end of all outputs.
    End,
    /// The end of the log, and therefore of the container.
    LogEnd,
}

struct Replay {
    container: Arc<dyn Container>,
    control: Arc<dyn SessionControl>,
    /// Dropped when input may be sent.
    undecided: Option<watch::Sender<()>>,
    /// Position in the log.
    cursor: Option<LogCursor>,
    /// Set if the log does not distinguish stdout from stderr.
    merged: bool,
    stdout: Output,
    stderr: Option<Output>,
}

impl Replay {
    async fn run(&mut self) -> std::result::Result<(), Stop> {
        let input_deadline = Instant::now() + INPUT_DELAY_MAX;
        let mut time = QUIET_TIME_MIN;
        self.show_available_log().await?;
        loop {
            match self.show_log_until_quiet(time, input_deadline).await? {
                Observation::End => return self.show_log_to_end().await,
                Observation::LogEnd => return Ok(()),
                Observation::Line | Observation::NoLine => {}
            }
            // Records that a follower has not returned may be delayed; a read without follow
            // returns all records.
            if !self.show_available_log().await? && self.caught_up() {
                return self.switch_to_session().await;
            }
            time = (time * 2).min(QUIET_TIME_MAX);
        }
    }

    /// Shows the records in the log; returns true if there were any.
    async fn show_available_log(&mut self) -> std::result::Result<bool, Stop> {
        let mut log = self.log(Follow::No).await?;
        let mut more = false;
        while let Some(record) = log.next().await {
            more = true;
            self.show(record?).await?;
        }
        self.save_cursor(&log);
        Ok(more)
    }

    /// Shows the log until neither the log nor the session has had a new line for `time`.
    async fn show_log_until_quiet(
        &mut self,
        time: Duration,
        input_deadline: Instant,
    ) -> std::result::Result<Observation, Stop> {
        let mut log = self.log(Follow::Yes).await?;
        let observed = loop {
            if Instant::now() > input_deadline {
                self.undecided = None;
            }
            tokio::select! {
                record = log.next() => match record {
                    Some(record) => self.show(record?).await?,
                    None => break Observation::LogEnd,
                },
                observed = self.observe(time) => match observed? {
                    Observation::Line => {}
                    observed => break observed,
                },
            }
        };
        self.save_cursor(&log);
        Ok(observed)
    }

    async fn log(&mut self, follow: Follow) -> Result<LogReader> {
        let mut options = LogOptions::default().follow(follow);
        options.after = self.cursor;
        self.container.logs(options).await
    }

    fn save_cursor(&mut self, log: &LogReader) {
        self.cursor = log.cursor().or(self.cursor);
    }

    async fn show(&mut self, record: runtime_core::LogRecord) -> std::result::Result<(), Stop> {
        self.merged |= record.stream == LogStream::Unknown;
        let output = match &mut self.stderr {
            Some(stderr) if record.stream == LogStream::Stderr => stderr,
            _ => &mut self.stdout,
        };
        output.history.add_logged(&record.bytes);
        output.send(record.bytes).await
    }

    /// Reads the session for `time`, or until it ends.
    async fn observe(&mut self, time: Duration) -> std::result::Result<Observation, Stop> {
        let until = Instant::now() + time;
        let mut observed = Observation::NoLine;
        loop {
            let stderr = self.stderr.as_mut().filter(|output| !output.ended);
            if self.stdout.ended && stderr.is_none() {
                return Ok(Observation::End);
            }
            let stderr: OptionFuture<_> = stderr.map(Output::read).into();
            let line = tokio::select! {
                line = self.stdout.read(), if !self.stdout.ended => line?,
                Some(line) = stderr => line?,
                () = tokio::time::sleep_until(until) => return Ok(observed),
            };
            if line {
                observed = Observation::Line;
            }
        }
    }

    /// Returns true if the log contains every line that the session has delivered.
    fn caught_up(&self) -> bool {
        match &self.stderr {
            Some(stderr) if self.merged => self.stdout.history.caught_up_with(&stderr.history),
            _ => {
                let mut outputs = std::iter::once(&self.stdout).chain(&self.stderr);
                outputs.all(|output| output.history.caught_up())
            }
        }
    }

    /// Shows the session's output from here on.
    async fn switch_to_session(&mut self) -> std::result::Result<(), Stop> {
        self.undecided = None;
        if self.stderr.is_none() && self.stdout.history.open.is_empty() {
            self.redraw().await;
        }
        let stderr: OptionFuture<_> = self.stderr.as_mut().map(Output::forward).into();
        let (stdout, stderr) = tokio::join!(self.stdout.forward(), stderr);
        stdout.and(stderr.unwrap_or(Ok(())))
    }

    /// Makes the process redraw the line that it edits, because a prompt from before the attach is
    /// not in the log yet. A resize of the terminal does that.
    async fn redraw(&mut self) {
        if let Some(size) = terminal::size() {
            let other = TerminalSize { columns: size.columns.saturating_add(1), ..size };
            for size in [other, size] {
                // The session may have ended; the end of its output follows.
                let _ = self.control.resize(size).await;
            }
        }
    }

    /// Shows the log to its end, which is the end of the container.
    async fn show_log_to_end(&mut self) -> std::result::Result<(), Stop> {
        self.undecided = None;
        let mut log = self.log(Follow::Yes).await?;
        while let Some(record) = log.next().await {
            self.show(record?).await?;
        }
        Ok(())
    }
}

/// Input that is delayed until the source of the output is decided.
struct Input {
    inner: Box<dyn SessionInput>,
    decided: watch::Receiver<()>,
}

impl Input {
    async fn decided(&mut self) {
        // No value is sent: the channel closes.
        while self.decided.changed().await.is_ok() {}
    }
}

#[async_trait]
impl SessionInput for Input {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.decided().await;
        self.inner.write(bytes).await
    }

    async fn close(&mut self) -> Result<()> {
        self.decided().await;
        self.inner.close().await
    }
}

/// One output of the session.
struct Output {
    live: ByteStream,
    /// Set when the session's output has ended.
    ended: bool,
    to: mpsc::Sender<Result<Bytes>>,
    history: History,
}

impl Output {
    fn new(live: ByteStream, to: mpsc::Sender<Result<Bytes>>) -> Self {
        Self { live, ended: false, to, history: History::default() }
    }

    async fn send(&mut self, bytes: Bytes) -> std::result::Result<(), Stop> {
        self.to.send(Ok(bytes)).await.map_err(|_| Stop::NoReader)
    }

    /// Reads a chunk; returns true if it contains a line end. Cancel safe.
    async fn read(&mut self) -> Result<bool> {
        match self.live.next().await.transpose()? {
            Some(bytes) => Ok(self.history.add_live(&bytes)),
            None => {
                self.ended = true;
                Ok(false)
            }
        }
    }

    async fn forward(&mut self) -> std::result::Result<(), Stop> {
        let open = std::mem::take(&mut self.history.open);
        if !open.is_empty() {
            self.send(open.into()).await?;
        }
        while let Some(bytes) = self.live.next().await {
            self.send(bytes?).await?;
        }
        Ok(())
    }
}

/// Output of one stream in log and session.
#[derive(Debug, Default)]
struct History {
    /// The end of the log.
    logged: Vec<u8>,
    /// The last lines of the session. The first can be incomplete.
    lines: Vec<u8>,
    /// Session output after the last line end.
    open: Vec<u8>,
    /// Set if `open` is truncated because the line is too long.
    cut: bool,
}

impl History {
    fn add_logged(&mut self, bytes: &[u8]) {
        add(&mut self.logged, bytes);
    }

    /// Returns true if a line ended.
    fn add_live(&mut self, bytes: &[u8]) -> bool {
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
        if let Some(end) = end {
            add(&mut self.lines, &std::mem::take(&mut self.open));
            add(&mut self.lines, &bytes[..end]);
            self.cut = false;
        }
        self.open.extend_from_slice(&bytes[end.unwrap_or(0)..]);
        if self.open.len() > HISTORY_BYTES_MAX {
            self.open.clear();
            self.cut = true;
        }
        end.is_some()
    }

    /// Returns true if the log contains all lines of the session and no part of the open line.
    fn caught_up(&self) -> bool {
        let same = self.lines.len().min(self.logged.len());
        let (lines, logged) = (&self.lines[self.lines.len() - same..], &self.logged);
        !self.cut
            && (logged.is_empty() || logged.ends_with(b"\n"))
            && (same == self.lines.len() || same >= HISTORY_BYTES_MAX)
            && logged.ends_with(lines)
    }

    /// Same as [`caught_up`](Self::caught_up) for a log that also has the lines of another output.
    fn caught_up_with(&self, other: &Self) -> bool {
        let (mut log, mut one, mut two) = (&self.logged[..], &self.lines[..], &other.lines[..]);
        if self.cut || other.cut || !(log.is_empty() || log.ends_with(b"\n")) {
            return false;
        }
        while !(one.is_empty() && two.is_empty()) {
            if log.is_empty() {
                // Earlier bytes were discarded.
                return self.logged.len() >= HISTORY_BYTES_MAX;
            }
            let last = take_last_line(&mut log);
            if !(takes(&mut one, last) || takes(&mut two, last)) {
                return false;
            }
        }
        true
    }
}

/// Removes the last line of a text that ends with a line end.
fn take_last_line<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let before = &text[..text.len().saturating_sub(1)];
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (rest, last) = text.split_at(start);
    *text = rest;
    last
}

/// Removes the last line of a text if it equals `line`. The first line of a text can be incomplete.
fn takes(text: &mut &[u8], line: &[u8]) -> bool {
    let mut rest = *text;
    let last = take_last_line(&mut rest);
    let same = !last.is_empty() && (last == line || rest.is_empty() && line.ends_with(last));
    if same {
        *text = rest;
    }
    same
}

/// Appends to a text of which only the end is kept. Carriage returns before line feeds are removed,
/// because some versions of containerd omit them in logs.
fn add(text: &mut Vec<u8>, bytes: &[u8]) {
    text.extend(bytes.iter().filter(|byte| **byte != b'\r'));
    // Trimming moves all kept bytes, so it is not done on every call.
    if text.len() > 2 * HISTORY_BYTES_MAX {
        text.drain(..text.len() - HISTORY_BYTES_MAX);
    }
}

fn receive(from: mpsc::Receiver<Result<Bytes>>, task: Arc<AbortOnDrop>) -> ByteStream {
    let pieces: std::pin::Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>> =
        Box::pin(stream::unfold((from, task), async |(mut from, task)| {
            Some((from.recv().await?, (from, task)))
        }));
    pieces
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(logged: &[&str], live: &[&str]) -> History {
        let mut history = History::default();
        for text in logged {
            history.add_logged(text.as_bytes());
        }
        for text in live {
            let _ = history.add_live(text.as_bytes());
        }
        history
    }

    #[test]
    fn caught_up_compares_log_with_session() {
        for (logged, live, caught_up, open) in [
            (&[][..], &[][..], true, ""),
            (&["a\n", "b\n"], &[], true, ""),
            (&["a\n"], &["prompt> "], true, "prompt> "),
            (&["a\n", "b\n"], &["b\nprom", "pt> "], true, "prompt> "),
            // The session started within a line.
            (&["one\n"], &["e\n", "t"], true, "t"),
            // The log is behind.
            (&["a\n"], &["b\n"], false, ""),
            (&[], &["a\n"], false, ""),
            // The log ends within a long line.
            (&["a\n", "b"], &["a\nb"], false, "b"),
        ] {
            let history = history(logged, live);
            assert_eq!(history.caught_up(), caught_up, "{logged:?} {live:?}");
            assert_eq!(history.open, open.as_bytes());
        }
    }

    #[test]
    fn history_is_bounded() {
        let line = format!("{}\n", "x".repeat(99));
        let mut history = history(&[], &[]);
        for _ in 0..10_000 {
            history.add_logged(line.as_bytes());
            assert!(history.add_live(line.as_bytes()));
        }
        assert!(
            history.logged.len() <= 2 * HISTORY_BYTES_MAX
                && history.lines.len() <= 2 * HISTORY_BYTES_MAX
        );
        assert!(history.caught_up());
        assert!(!history.add_live("x".repeat(2 * HISTORY_BYTES_MAX).as_bytes()));
        assert!(history.open.len() <= HISTORY_BYTES_MAX && !history.caught_up());
        assert!(history.add_live(b"\n"));
        assert!(!history.caught_up(), "the log has no such line yet");
    }

    #[test]
    fn merged_log_contains_lines_of_both_outputs() {
        for (logged, stdout, stderr, caught_up) in [
            ("out\nerr\nmore\n", "out\nmore\n", "err\n", true),
            ("out\nerr\nmore\n", "t\nmore\n", "", false),
            ("out\nerr\nmore\n", "more\n? ", "rr\n", true),
            ("before\n", "", "", true),
            ("out\n", "", "late\n", false),
            // The repeated lines are not in the log yet.
            ("1\n2\n", "1\n2\n1\n2\n", "", false),
            ("1\n2\n1\n2\n", "2\n1\n2\n", "", true),
        ] {
            let (stdout, stderr) = (history(&[logged], &[stdout]), history(&[], &[stderr]));
            assert_eq!(stdout.caught_up_with(&stderr), caught_up, "{logged:?}");
        }
    }
}
