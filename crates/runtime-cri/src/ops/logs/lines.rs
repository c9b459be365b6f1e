//! Conversion of the blocks of log files to records.

use std::time::SystemTime;

use runtime_core::{Chunk, LineJoiner, LogRecord, LogStream};

use crate::host::log_files::Unfinished;
use crate::model::container::CriContainer;
use crate::model::log_format::Parser;
use crate::state::connection::Connection;

/// Terminal of the main process, and the effect of the engine on its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    /// There is no terminal.
    No,
    /// The log has all bytes.
    Whole,
    /// The log lacks the carriage returns before line ends.
    WithoutReturns,
}

impl Terminal {
    pub(super) fn of(connection: &Connection, container: &CriContainer) -> Self {
        if !container.annotations.terminal {
            Self::No
        } else if connection.engine.is_containerd() {
            Self::WithoutReturns
        } else {
            Self::Whole
        }
    }
}

/// Position in a stream.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Time of the last chunk.
    last: Option<SystemTime>,
    /// In a truncated file that is read again: time up to which chunks were returned before.
    known_until: Option<SystemTime>,
}

/// Converter of blocks to records.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) parser: Parser,
    joiner: LineJoiner,
    max_line: usize,
    terminal: Terminal,
    unfinished: Unfinished,
    /// The times of the chunks of one stream are in order. Chunks of the other stream can be
    /// written before them.
    stdout: Progress,
    stderr: Progress,
    /// Whether the joiner may have a record ready.
    joining: bool,
}

impl Lines {
    pub(super) fn new(terminal: Terminal, max_line: usize, unfinished: Unfinished) -> Self {
        Self {
            parser: Parser::new(terminal != Terminal::No),
            joiner: LineJoiner::new(max_line),
            max_line,
            terminal,
            unfinished,
            stdout: Progress::default(),
            stderr: Progress::default(),
            joining: false,
        }
    }

    /// Returns the next record, or `None` if another block is needed.
    #[inline]
    pub(super) fn next(&mut self) -> Option<LogRecord> {
        loop {
            if self.joining {
                if let Some(record) = self.joiner.pop() {
                    return Some(record);
                }
                self.joining = self.joiner.is_in_line();
            }
            let mut chunk = self.parser.next()?;
            if self.was_returned(&chunk) {
                continue;
            }
            if self.terminal == Terminal::WithoutReturns {
                chunk = runtime_support::follow::with_carriage_return(chunk);
            }
            // Most lines are whole and need no join.
            if chunk.ends_line
                && !self.joining
                && chunk.bytes.len() <= self.max_line
                && self.unfinished == Unfinished::default()
            {
                let Chunk { time, stream, bytes, .. } = chunk;
                let unfinished = None;
                let record = LogRecord { time, stream, bytes, continues: false, unfinished };
                self.joiner.count(&record);
                return Some(record);
            }
            self.push(chunk);
        }
    }

    /// Prepares for the beginning of a truncated file that is read again. Its chunks that were
    /// returned before are skipped.
    pub(super) fn restart(&mut self) {
        self.parser.reset();
        let (stdout, stderr) = (self.stdout.last, self.stderr.last);
        // Chunks of a stream without a position were before the start of the read.
        self.stdout.known_until = stdout.or(stderr);
        self.stderr.known_until = stderr.or(stdout);
    }

    #[inline]
    fn was_returned(&mut self, chunk: &Chunk) -> bool {
        let progress = match chunk.stream {
            LogStream::Stderr => &mut self.stderr,
            _ => &mut self.stdout,
        };
        if let Some(known) = progress.known_until {
            if chunk.time <= known {
                return true;
            }
            progress.known_until = None;
        }
        progress.last = Some(chunk.time);
        false
    }

    fn push(&mut self, chunk: Chunk) {
        let headless = match chunk.stream {
            LogStream::Stderr => &mut self.unfinished.stderr,
            _ => &mut self.unfinished.stdout,
        };
        if *headless {
            *headless = !chunk.ends_line;
            return;
        }
        self.joiner.push(chunk);
        self.joining = true;
    }

    /// Returns whether records wait for the end of a line of the other stream.
    pub(super) fn holds_back(&self) -> bool {
        self.joining && self.joiner.holds_back()
    }

    /// Releases the lines that wait for an unfinished line.
    pub(super) fn let_pass(&mut self) {
        self.joiner.let_pass();
    }

    /// Ends the log, and releases its last partial lines.
    pub(super) fn finish(&mut self) {
        if let Some(chunk) = self.parser.finish() {
            self.push(chunk);
        }
        self.joiner.finish();
        self.joining = true;
        let skipped = self.parser.skipped_bytes();
        if skipped > 0 {
            tracing::warn!(bytes = skipped, "skipped parts of a log file in an unknown format");
        }
    }
}
