//! The log parser, for the fuzzer. Not part of the interface.

use bytes::Bytes;
use runtime_core::{LineJoiner, LogRecord};

use crate::parser::Parser;

/// What a log file gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Its records, in order.
    pub records: Vec<LogRecord>,
    /// How many bytes were passed over.
    pub passed_over: u64,
}

/// Reads a log file that comes in blocks of at least one byte, with lines of up to `max_line`.
#[must_use]
pub fn log_file(file: &[u8], block: usize, max_line: usize) -> Log {
    let mut parser = Parser::new(false);
    let mut joiner = LineJoiner::new(max_line.max(1));
    let mut records = Vec::new();
    for part in file.chunks(block.max(1)) {
        let mut fed = parser.take_rest().to_vec();
        fed.extend_from_slice(part);
        parser.feed(Bytes::from(fed));
        while let Some(chunk) = parser.next() {
            joiner.push(chunk);
            records.extend(std::iter::from_fn(|| joiner.pop()));
        }
    }
    if let Some(chunk) = parser.finish() {
        joiner.push(chunk);
    }
    joiner.finish();
    records.extend(std::iter::from_fn(|| joiner.pop()));
    Log { records, passed_over: parser.passed_over() }
}
