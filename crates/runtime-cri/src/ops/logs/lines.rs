//! Records of the blocks of a log file.

use std::time::SystemTime;

use runtime_core::{Chunk, LineJoiner, LogRecord, LogStream};

use crate::host::log_files::Unfinished;
use crate::model::container::CriContainer;
use crate::model::log_format::Parser;
use crate::state::connection::Connection;

/// Whether the main process has a terminal, and what the engine makes of its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    No,
    /// Its log is as it was written.
    Whole,
    /// The carriage returns are missing that the terminal writes before line ends.
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

/// How far a stream was read.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The time of its last piece.
    last: Option<SystemTime>,
    /// In a file that is read anew: up to which time its pieces were there before.
    known_until: Option<SystemTime>,
}

/// Makes records of blocks.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) parser: Parser,
    joiner: LineJoiner,
    max_line: usize,
    terminal: Terminal,
    unfinished: Unfinished,
    /// The engine stamps the pieces of one stream in their order. Those of the other one can
    /// overtake them on their way into the file.
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

    /// The next record. `None` when it takes another block.
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
            if self.came_before(&chunk) {
                continue;
            }
            if self.terminal == Terminal::WithoutReturns {
                chunk = runtime_support::follow::with_carriage_return(chunk);
            }
            // Nearly every line comes whole, and needs no joining.
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

    /// What comes next is the beginning of a file that was cut and is read anew: what is left in it
    /// of what was read before is passed over.
    pub(super) fn begin_again(&mut self) {
        self.parser.begin_again();
        let (stdout, stderr) = (self.stdout.last, self.stderr.last);
        // What was not read of a stream stood before the place where the reading began.
        self.stdout.known_until = stdout.or(stderr);
        self.stderr.known_until = stderr.or(stdout);
    }

    #[inline]
    fn came_before(&mut self, chunk: &Chunk) -> bool {
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

    /// Whether records wait for the end of a line of another stream.
    pub(super) fn holds_back(&self) -> bool {
        self.joining && self.joiner.holds_back()
    }

    /// Lets the lines that wait for an unfinished line overtake it.
    pub(super) fn let_pass(&mut self) {
        self.joiner.let_pass();
    }

    /// The log has ended: what is there of its last lines is given.
    pub(super) fn finish(&mut self) {
        if let Some(chunk) = self.parser.finish() {
            self.push(chunk);
        }
        self.joiner.finish();
        self.joining = true;
        let passed_over = self.parser.passed_over();
        if passed_over > 0 {
            tracing::warn!(bytes = passed_over, "parts of a log file made no sense");
        }
    }
}
