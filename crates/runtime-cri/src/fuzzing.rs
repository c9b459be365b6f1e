//! The log parser, for the fuzzer. Not part of the interface.

use bytes::Bytes;
use runtime_core::LineJoiner;

use crate::parser::Parser;

/// Parses a log file that comes in blocks of the size that its first two bytes say, and joins its
/// lines.
///
/// # Panics
/// When bytes were made up, or more were passed over than there are: then the parser is wrong.
pub fn log_file(input: &[u8]) {
    let Some((&[low, high], file)) = input.split_first_chunk() else { return };
    let size = usize::from(u16::from_le_bytes([low, high])).max(1);
    let mut parser = Parser::new(false);
    let mut joiner = LineJoiner::new(usize::from(low).max(1));
    let (mut given, mut joined) = (0, 0);
    for part in file.chunks(size) {
        let mut block = parser.take_rest().to_vec();
        block.extend_from_slice(part);
        parser.feed(Bytes::from(block));
        while let Some(chunk) = parser.next() {
            given += chunk.bytes.len();
            joiner.push(chunk);
            joined += std::iter::from_fn(|| joiner.pop()).map(|r| r.bytes.len()).sum::<usize>();
        }
    }
    if let Some(chunk) = parser.finish() {
        given += chunk.bytes.len();
        joiner.push(chunk);
    }
    joiner.finish();
    joined += std::iter::from_fn(|| joiner.pop()).map(|r| r.bytes.len()).sum::<usize>();
    assert_eq!(given, joined, "joining keeps every byte");
    let passed_over = usize::try_from(parser.passed_over()).unwrap_or(usize::MAX);
    assert!(given + passed_over <= file.len(), "nothing is made up");
}
