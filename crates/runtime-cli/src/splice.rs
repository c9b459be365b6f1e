//! A session that began after its process, made whole.
//!
//! An engine that attaches only to what runs gives no output of before the attach. The log has that
//! output, but only by whole lines, so that a prompt would never be seen. Both together give all of
//! it: the log at first, and the session from a moment on at which the log has every line that
//! the session has shown. Where no such moment comes, because the process writes without a
//! pause, the log gives everything to the end: no line is lost, and none comes twice.
//!
//! Input waits a moment for that. So what a process answers comes from the session, byte for byte,
//! which not every engine's log has.

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

/// How long no line may have come before the log can be left. It is much longer than an engine
/// takes from what it reads of a process to its log.
const QUIET: Duration = Duration::from_millis(100);

/// The longest such time, where the log is still not what the session was.
const LONGEST: Duration = Duration::from_secs(2);

/// How long input waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much of an output is kept for comparison.
const KEPT: usize = 64 << 10;

/// How many pieces wait for whoever reads the outputs.
const PIECES: usize = 4;

/// Gives a session the output of before it. The container must not have written anything before
/// the start that this session belongs to.
pub(crate) fn whole(container: Arc<dyn Container>, session: Session) -> Session {
    let Session { stdin, stdout, stderr, control, .. } = session;
    let (to_stdout, new_stdout) = mpsc::channel(PIECES);
    let (to_stderr, new_stderr) = mpsc::channel(PIECES);
    let has_stderr = stderr.is_some();
    let (deciding, decided) = watch::channel(());
    let stdin = stdin.map(|inner| Box::new(Input { inner, decided }) as Box<dyn SessionInput>);
    let mut splice = Splice {
        container,
        control: Arc::clone(&control),
        deciding: Some(deciding),
        cursor: None,
        merged: false,
        stdout: Output::new(stdout, to_stdout),
        stderr: stderr.map(|stderr| Output::new(stderr, to_stderr)),
    };
    let task = tokio::spawn(async move {
        if let Err(Stop::Failed(error)) = splice.run().await {
            let _ = splice.stdout.to.send(Err(error)).await;
        }
    });
    let task = Arc::new(AbortOnDrop(task));
    let stdout = receive(new_stdout, Arc::clone(&task));
    let stderr = has_stderr.then(|| receive(new_stderr, task));
    Session::new(stdin, stdout, stderr, control)
}

/// Why a splice ends before its outputs do.
enum Stop {
    /// Nobody reads them any more.
    NoReader,
    Failed(runtime_core::Error),
}

impl From<runtime_core::Error> for Stop {
    fn from(error: runtime_core::Error) -> Self {
        Self::Failed(error)
    }
}

/// What the session has said for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// A line at least.
    Line,
    /// No end of a line.
    Less,
    /// The end of all outputs.
    End,
    /// The log has ended, and with it everything.
    Over,
}

struct Splice {
    container: Arc<dyn Container>,
    control: Arc<dyn SessionControl>,
    /// Dropped when it is decided where the outputs come from.
    deciding: Option<watch::Sender<()>>,
    /// How far the log was read.
    cursor: Option<LogCursor>,
    /// Whether the log does not tell the outputs apart.
    merged: bool,
    stdout: Output,
    stderr: Option<Output>,
}

impl Splice {
    async fn run(&mut self) -> std::result::Result<(), Stop> {
        let patience = Instant::now() + PATIENCE;
        let mut time = QUIET;
        self.read_to_the_end().await?;
        loop {
            match self.until_quiet(time, patience).await? {
                Heard::End => return self.stay_with_the_log().await,
                Heard::Over => return Ok(()),
                Heard::Line | Heard::Less => {}
            }
            // What a follower has not given can still be on its way; what a reader has not given
            // is not there.
            if !self.read_to_the_end().await? && self.caught_up() {
                return self.go_live().await;
            }
            time = (time * 2).min(LONGEST);
        }
    }

    /// Gives what the log has; true when that was anything.
    async fn read_to_the_end(&mut self) -> std::result::Result<bool, Stop> {
        let mut log = self.log(Follow::No).await?;
        let mut more = false;
        while let Some(record) = log.next().await {
            more = true;
            self.show(record?).await?;
        }
        self.went_to(&log);
        Ok(more)
    }

    /// Gives the log until for a time neither it nor the session has had a line.
    async fn until_quiet(
        &mut self,
        time: Duration,
        patience: Instant,
    ) -> std::result::Result<Heard, Stop> {
        let mut log = self.log(Follow::Yes).await?;
        let heard = loop {
            if Instant::now() > patience {
                self.deciding = None;
            }
            tokio::select! {
                record = log.next() => match record {
                    Some(record) => self.show(record?).await?,
                    None => break Heard::Over,
                },
                heard = self.listen(time) => match heard? {
                    Heard::Line => {}
                    heard => break heard,
                },
            }
        };
        self.went_to(&log);
        Ok(heard)
    }

    async fn log(&mut self, follow: Follow) -> Result<LogReader> {
        let mut options = LogOptions::default().follow(follow);
        options.after = self.cursor;
        self.container.logs(options).await
    }

    fn went_to(&mut self, log: &LogReader) {
        self.cursor = log.cursor().or(self.cursor);
    }

    async fn show(&mut self, record: runtime_core::LogRecord) -> std::result::Result<(), Stop> {
        self.merged |= record.stream == LogStream::Unknown;
        let output = match &mut self.stderr {
            Some(stderr) if record.stream == LogStream::Stderr => stderr,
            _ => &mut self.stdout,
        };
        output.seen.add_logged(&record.bytes);
        output.give(record.bytes).await
    }

    /// Listens to the session for a time, or until it ends.
    async fn listen(&mut self, time: Duration) -> std::result::Result<Heard, Stop> {
        let until = Instant::now() + time;
        let mut heard = Heard::Less;
        loop {
            let stderr = self.stderr.as_mut().filter(|output| !output.ended);
            if self.stdout.ended && stderr.is_none() {
                return Ok(Heard::End);
            }
            let stderr: OptionFuture<_> = stderr.map(Output::hear).into();
            let line = tokio::select! {
                line = self.stdout.hear(), if !self.stdout.ended => line?,
                Some(line) = stderr => line?,
                () = tokio::time::sleep_until(until) => return Ok(heard),
            };
            if line {
                heard = Heard::Line;
            }
        }
    }

    /// Whether the log has every line that the session has shown.
    fn caught_up(&self) -> bool {
        match &self.stderr {
            Some(stderr) if self.merged => self.stdout.seen.caught_up_with(&stderr.seen),
            _ => {
                let mut outputs = std::iter::once(&self.stdout).chain(&self.stderr);
                outputs.all(|output| output.seen.caught_up())
            }
        }
    }

    /// Gives the session's outputs from here on.
    async fn go_live(&mut self) -> std::result::Result<(), Stop> {
        self.deciding = None;
        if self.stderr.is_none() && self.stdout.seen.open.is_empty() {
            self.redraw().await;
        }
        let stderr: OptionFuture<_> = self.stderr.as_mut().map(Output::forward).into();
        let (stdout, stderr) = tokio::join!(self.stdout.forward(), stderr);
        stdout.and(stderr.unwrap_or(Ok(())))
    }

    /// Has the process show its line again, if it edits one: a prompt of before the session is in no
    /// log yet. A terminal that changes its size has it do so.
    async fn redraw(&mut self) {
        if let Some(size) = terminal::size() {
            let other = TerminalSize { columns: size.columns.saturating_add(1), ..size };
            for size in [other, size] {
                // It may have ended; its output will tell.
                let _ = self.control.resize(size).await;
            }
        }
    }

    /// Gives the log to its end, which comes with that of the container.
    async fn stay_with_the_log(&mut self) -> std::result::Result<(), Stop> {
        self.deciding = None;
        let mut log = self.log(Follow::Yes).await?;
        while let Some(record) = log.next().await {
            self.show(record?).await?;
        }
        Ok(())
    }
}

/// Input that waits until it is decided where the outputs come from.
struct Input {
    inner: Box<dyn SessionInput>,
    decided: watch::Receiver<()>,
}

impl Input {
    async fn decided(&mut self) {
        // Nothing is ever sent: the other end goes away.
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
    /// Whether the session has no more of it.
    ended: bool,
    to: mpsc::Sender<Result<Bytes>>,
    seen: Seen,
}

impl Output {
    fn new(live: ByteStream, to: mpsc::Sender<Result<Bytes>>) -> Self {
        Self { live, ended: false, to, seen: Seen::default() }
    }

    async fn give(&mut self, bytes: Bytes) -> std::result::Result<(), Stop> {
        self.to.send(Ok(bytes)).await.map_err(|_| Stop::NoReader)
    }

    /// Hears a piece; true when a line has ended in it. It can be dropped without losing any.
    async fn hear(&mut self) -> Result<bool> {
        match self.live.next().await.transpose()? {
            Some(bytes) => Ok(self.seen.add_live(&bytes)),
            None => {
                self.ended = true;
                Ok(false)
            }
        }
    }

    async fn forward(&mut self) -> std::result::Result<(), Stop> {
        let open = std::mem::take(&mut self.seen.open);
        if !open.is_empty() {
            self.give(open.into()).await?;
        }
        while let Some(bytes) = self.live.next().await {
            self.give(bytes?).await?;
        }
        Ok(())
    }
}

/// What the log and the session have said of one output.
#[derive(Debug, Default)]
struct Seen {
    /// The last that the log has said.
    logged: Vec<u8>,
    /// The last lines that the session has said. The first can be the rest of a line.
    lines: Vec<u8>,
    /// What the session has said since: a line without its end.
    open: Vec<u8>,
    /// Whether that is not all here, because it was too long.
    cut: bool,
}

impl Seen {
    fn add_logged(&mut self, bytes: &[u8]) {
        add(&mut self.logged, bytes);
    }

    /// True when a line has ended.
    fn add_live(&mut self, bytes: &[u8]) -> bool {
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
        if let Some(end) = end {
            add(&mut self.lines, &std::mem::take(&mut self.open));
            add(&mut self.lines, &bytes[..end]);
            self.cut = false;
        }
        self.open.extend_from_slice(&bytes[end.unwrap_or(0)..]);
        if self.open.len() > KEPT {
            self.open.clear();
            self.cut = true;
        }
        end.is_some()
    }

    /// Whether the log has all lines that the session has shown, and nothing of the open one.
    fn caught_up(&self) -> bool {
        let same = self.lines.len().min(self.logged.len());
        let (lines, logged) = (&self.lines[self.lines.len() - same..], &self.logged);
        !self.cut
            && (logged.is_empty() || logged.ends_with(b"\n"))
            && (same == self.lines.len() || same >= KEPT)
            && logged.ends_with(lines)
    }

    /// The same for a log that has another output among its lines.
    fn caught_up_with(&self, other: &Self) -> bool {
        let (mut log, mut one, mut two) = (&self.logged[..], &self.lines[..], &other.lines[..]);
        if self.cut || other.cut || !(log.is_empty() || log.ends_with(b"\n")) {
            return false;
        }
        while !(one.is_empty() && two.is_empty()) {
            if log.is_empty() {
                // No more is kept of it.
                return self.logged.len() >= KEPT;
            }
            let last = take_last_line(&mut log);
            if !(takes(&mut one, last) || takes(&mut two, last)) {
                return false;
            }
        }
        true
    }
}

/// Takes the last line off a text whose last line has its end.
fn take_last_line<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let before = &text[..text.len().saturating_sub(1)];
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (rest, last) = text.split_at(start);
    *text = rest;
    last
}

/// Takes the last line off a text if it is this one. The first of a text can be the rest of a line.
fn takes(text: &mut &[u8], line: &[u8]) -> bool {
    let mut rest = *text;
    let last = take_last_line(&mut rest);
    let same = !last.is_empty() && (last == line || rest.is_empty() && line.ends_with(last));
    if same {
        *text = rest;
    }
    same
}

/// Adds to a text of which only the end is kept, for comparison. Some versions of containerd leave
/// a carriage return before a line feed out of their logs.
fn add(text: &mut Vec<u8>, bytes: &[u8]) {
    text.extend(bytes.iter().filter(|byte| **byte != b'\r'));
    // Not every time: it moves all that is kept.
    if text.len() > 2 * KEPT {
        text.drain(..text.len() - KEPT);
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

    fn seen(logged: &[&str], live: &[&str]) -> Seen {
        let mut seen = Seen::default();
        for text in logged {
            seen.add_logged(text.as_bytes());
        }
        for text in live {
            let _ = seen.add_live(text.as_bytes());
        }
        seen
    }

    #[test]
    fn the_log_has_all_or_not() {
        for (logged, live, caught_up, open) in [
            (&[][..], &[][..], true, ""),
            (&["a\n", "b\n"], &[], true, ""),
            (&["a\n"], &["prompt> "], true, "prompt> "),
            (&["a\n", "b\n"], &["b\nprom", "pt> "], true, "prompt> "),
            // The session began within a line.
            (&["one\n"], &["e\n", "t"], true, "t"),
            // The log is late.
            (&["a\n"], &["b\n"], false, ""),
            (&[], &["a\n"], false, ""),
            // It is in the middle of a long line.
            (&["a\n", "b"], &["a\nb"], false, "b"),
        ] {
            let seen = seen(logged, live);
            assert_eq!(seen.caught_up(), caught_up, "{logged:?} {live:?}");
            assert_eq!(seen.open, open.as_bytes());
        }
    }

    #[test]
    fn little_is_kept() {
        let line = format!("{}\n", "x".repeat(99));
        let mut seen = seen(&[], &[]);
        for _ in 0..10_000 {
            seen.add_logged(line.as_bytes());
            assert!(seen.add_live(line.as_bytes()));
        }
        assert!(seen.logged.len() <= 2 * KEPT && seen.lines.len() <= 2 * KEPT);
        assert!(seen.caught_up());
        assert!(!seen.add_live("x".repeat(2 * KEPT).as_bytes()));
        assert!(seen.open.len() <= KEPT && !seen.caught_up());
        assert!(seen.add_live(b"\n"));
        assert!(!seen.caught_up(), "the log has no such line yet");
    }

    #[test]
    fn the_lines_of_two_outputs_in_one_log() {
        for (logged, stdout, stderr, caught_up) in [
            ("out\nerr\nmore\n", "out\nmore\n", "err\n", true),
            ("out\nerr\nmore\n", "t\nmore\n", "", false),
            ("out\nerr\nmore\n", "more\n? ", "rr\n", true),
            ("before\n", "", "", true),
            ("out\n", "", "late\n", false),
            // The same again, which the log does not have yet.
            ("1\n2\n", "1\n2\n1\n2\n", "", false),
            ("1\n2\n1\n2\n", "2\n1\n2\n", "", true),
        ] {
            let (stdout, stderr) = (seen(&[logged], &[stdout]), seen(&[], &[stderr]));
            assert_eq!(stdout.caught_up_with(&stderr), caught_up, "{logged:?}");
        }
    }
}
