//! Entry points for fuzzers: whatever the bytes, nothing here may panic or use unbounded memory.

use bytes::BytesMut;

use crate::codec::{Decoded, Decoder, Decompressor, Encoder, Headers};
use crate::remote_command::Outcome;

/// Feeds `input` to a decoder in pieces of up to `piece` bytes. What it accepts has to be writable
/// again, and to come back the same.
///
/// # Panics
/// When a frame changes on its way through the encoder.
#[allow(clippy::missing_panics_doc)]
pub fn frames(input: &[u8], piece: usize) {
    let (mut decoder, mut again) = (Decoder::new(), Decoder::new());
    let Ok(mut encoder) = Encoder::new() else { return };
    for mut piece in input.chunks(piece.max(1)) {
        loop {
            let decoded = match decoder.next(&mut piece) {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some(decoded)) => decoded,
            };
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
}

/// Feeds `input` to a header decompressor and what comes out to the header parser.
pub fn header_block(input: &[u8]) {
    if let Ok(block) = Decompressor::new().decompress(input) {
        let _ = Headers::from_block(&block);
    }
    let _ = Headers::from_block(input);
}

/// Takes `input` for what an error stream carries.
pub fn outcome(input: &[u8]) {
    let _ = Outcome::parse(input);
}
