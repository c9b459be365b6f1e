//! Entry points for fuzzers. No input may cause a panic or unbounded memory use.

use bytes::BytesMut;

use crate::codec::{Decoded, Decoder, Decompressor, Encoder, Headers};
use crate::remote_command::Outcome;

/// Feeds `input` to a decoder in chunks of up to `piece` bytes. Every decoded control frame is
/// encoded and decoded again, which must give an equal frame. Returns the number of control frames,
/// and true if decoding ended with an error.
///
/// # Panics
/// If a frame differs after encoding.
#[allow(clippy::missing_panics_doc)]
pub fn frames(input: &[u8], piece: usize) -> (usize, bool) {
    let (mut decoder, mut again) = (Decoder::new(), Decoder::new());
    let Ok(mut encoder) = Encoder::new() else { return (0, true) };
    let mut frames = 0;
    for mut piece in input.chunks(piece.max(1)) {
        loop {
            let decoded = match decoder.next(&mut piece) {
                Err(_) => return (frames, true),
                Ok(None) => break,
                Ok(Some(decoded)) => decoded,
            };
            // Data frames are decoded in chunks.
            frames += usize::from(matches!(decoded, Decoded::Control(_)));
            let mut wire = BytesMut::new();
            let written = match &decoded {
                Decoded::Control(frame) => encoder.control(frame, &mut wire),
                Decoded::Data { stream_id, data, fin } => {
                    Encoder::data(*stream_id, *fin, data, &mut wire)
                }
            };
            if written.is_ok() {
                let repeated = again.next(&mut wire.as_ref());
                assert_eq!(repeated, Ok(Some(decoded)), "a frame changed");
            }
        }
    }
    (frames, false)
}

/// Decompresses `input` as a header block, parses the result, and parses `input` itself. Returns
/// which of these succeeded.
pub fn header_block(input: &[u8]) -> [bool; 3] {
    let block = Decompressor::new().decompress(input);
    let inflated = block.as_ref().is_ok_and(|block| Headers::from_block(block).is_ok());
    [block.is_ok(), inflated, Headers::from_block(input).is_ok()]
}

/// Parses `input` as the content of an error stream; returns its exit code, if any.
pub fn outcome(input: &[u8]) -> Option<i32> {
    match Outcome::parse(input) {
        Ok(Outcome::ExitCode(code)) => Some(code),
        Ok(_) => Some(0),
        Err(_) => None,
    }
}
