//! Entry points for fuzzers: whatever the bytes, nothing here may panic or use unbounded memory.

use bytes::BytesMut;

use crate::codec::{Decoded, Decoder, Decompressor, Encoder, Headers};
use crate::remote_command::Outcome;

/// Feeds `input` to a decoder in pieces of up to `piece` bytes. What it accepts has to be writable
/// again, and to come back the same. Gives how many control frames there were, and whether it ended in an
/// error.
///
/// # Panics
/// When a frame changes on its way through the encoder.
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
            // Data is given as it comes.
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

/// Feeds `input` to a header decompressor and what comes out to the header parser, and to that as
/// it is. Gives whether each was done.
pub fn header_block(input: &[u8]) -> [bool; 3] {
    let block = Decompressor::new().decompress(input);
    let inflated = block.as_ref().is_ok_and(|block| Headers::from_block(block).is_ok());
    [block.is_ok(), inflated, Headers::from_block(input).is_ok()]
}

/// Takes `input` for what an error stream carries, and gives the exit code if it has one.
pub fn outcome(input: &[u8]) -> Option<i32> {
    match Outcome::parse(input) {
        Ok(Outcome::ExitCode(code)) => Some(code),
        Ok(_) => Some(0),
        Err(_) => None,
    }
}
