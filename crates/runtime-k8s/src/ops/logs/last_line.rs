//! The last line that was read of a log, for the comparison with the end of the log.

use std::collections::VecDeque;
use std::time::SystemTime;

use runtime_core::Chunk;

/// How much of the line is kept, in bytes.
const LAST_LINE_BYTES_MAX: usize = 64 << 10;

/// The last line that was read.
#[derive(Debug, Default)]
pub(super) struct LastLine {
    newest: Option<SystemTime>,
    /// The end of the line.
    end: Vec<u8>,
    /// The length of the line.
    length: usize,
    is_over: bool,
}

impl LastLine {
    /// Adds the next chunk.
    pub(super) fn push(&mut self, chunk: &Chunk) {
        self.newest = self.newest.max(Some(chunk.time));
        if std::mem::replace(&mut self.is_over, chunk.ends_line) {
            self.end.clear();
            self.length = 0;
        }
        self.length += chunk.bytes.len();
        self.end.extend_from_slice(&chunk.bytes);
        if self.end.len() > 2 * LAST_LINE_BYTES_MAX {
            self.end.drain(..self.end.len() - LAST_LINE_BYTES_MAX);
        }
    }

    /// Returns the newest time that was read.
    pub(super) const fn newest(&self) -> Option<SystemTime> {
        self.newest
    }

    /// Returns whether a chunk newer than `before` was read.
    pub(super) fn has_new(&self, before: Option<SystemTime>) -> bool {
        self.newest > before || (self.newest.is_none() && before.is_none())
    }

    /// Returns whether the line ends with this last piece of the log. A node joins the pieces of a
    /// line and returns them with the time of the first. A request for the last line returns only
    /// the last piece, with its own time. A line of the length of the piece is another line.
    pub(super) fn ends_with(&self, last: &VecDeque<Chunk>) -> bool {
        let last: Vec<u8> = last.iter().flat_map(|chunk| &chunk.bytes).copied().collect();
        let (end, last) = (without_end(&self.end), without_end(&last));
        let last = &last[last.len().saturating_sub(LAST_LINE_BYTES_MAX)..];
        self.length > last.len() + 2 && end.ends_with(last)
    }
}

/// Removes the line end. The lines of a terminal also have a carriage return, which some engines
/// drop.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use runtime_core::LogStream;

    fn chunk(seconds: u64, text: &str) -> Chunk {
        Chunk {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            stream: LogStream::Unknown,
            bytes: text.to_owned().into(),
            ends_line: text.ends_with('\n'),
        }
    }

    #[test]
    fn joined_line_ends_with_last_piece() {
        let mut ending = LastLine::default();
        ending.push(&chunk(1, "first\n"));
        let long = "x".repeat(200 << 10);
        ending.push(&chunk(2, &long));
        ending.push(&chunk(2, "rest\n"));
        let of = |text: &str| VecDeque::from([chunk(9, text)]);
        assert!(ending.ends_with(&of("xxrest\n")));
        assert!(ending.ends_with(&of("xxrest\r\n")));
        assert!(!ending.ends_with(&of("other\n")));
        ending.push(&chunk(3, "y\n"));
        assert!(!ending.ends_with(&of("y\n")), "a separate line with another time");
        assert!(ending.end.len() <= 3 * LAST_LINE_BYTES_MAX);
    }

    #[test]
    fn new_chunks_are_detected() {
        let time = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let mut ending = LastLine::default();
        assert!(ending.has_new(None), "no chunk was read yet");
        assert!(!ending.has_new(time(1)));
        ending.push(&chunk(2, "a\n"));
        assert!(ending.has_new(time(1)) && ending.has_new(None));
        assert!(!ending.has_new(time(2)));
    }
}
