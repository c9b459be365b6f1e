//! Splits a stream of frames whose messages have no times: of a session, or a raw log.

use bytes::{Buf, Bytes, BytesMut};
use runtime_core::{Error, ErrorKind, Result};

/// The length limit of a message. Docker's have up to 16 KiB and a time, and Podman sometimes joins
/// pieces of a line. A stream with a longer message is not a log.
pub(super) const MESSAGE_LENGTH_MAX: usize = 16 << 20;

/// The length of a frame's header.
pub(super) const HEADER_LENGTH: usize = 8;

/// The length limit of the engine's message in an error.
const ERROR_LENGTH_MAX: usize = 1024;

/// Returns the text of an error that the engine wrote in place of a message.
pub(crate) fn message(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(ERROR_LENGTH_MAX)]).trim().to_owned()
}

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stdout,
    Stderr,
    /// An error of the engine, after which the stream ends.
    Engine,
}

/// Parser of frames. It returns partial messages without buffering them.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The start of an incomplete header.
    header: BytesMut,
    /// The length of the open message, and of the rest of it.
    length: usize,
    left: usize,
    /// `true` if the last returned bytes are the start of a message.
    begins: bool,
    kind: u8,
}

impl Frames {
    /// Returns the next bytes of one stream in `piece`, `None` if it is consumed.
    pub(crate) fn next(&mut self, piece: &mut Bytes) -> Result<Option<(Kind, Bytes)>> {
        loop {
            if piece.is_empty() {
                return Ok(None);
            }
            if self.left > 0 {
                let bytes = piece.split_to(self.left.min(piece.len()));
                self.begins = self.left == self.length;
                self.left -= bytes.len();
                let kind = match self.kind {
                    // Docker's command line writes frames of stdin to stdout too.
                    0 | 1 => Kind::Stdout,
                    2 => Kind::Stderr,
                    _ => Kind::Engine,
                };
                return Ok(Some((kind, bytes)));
            }
            let missing = (HEADER_LENGTH - self.header.len()).min(piece.len());
            self.header.extend_from_slice(&piece[..missing]);
            piece.advance(missing);
            if let Some(header) = self.header.first_chunk::<HEADER_LENGTH>() {
                self.length = frame_length(header)?;
                self.left = self.length;
                self.kind = header[0];
                self.header.clear();
            }
        }
    }

    /// Returns `true` if the last returned bytes are the start of a message.
    pub(crate) fn begins(&self) -> bool {
        self.begins
    }

    /// Returns `true` if a message is incomplete.
    pub(crate) fn is_within(&self) -> bool {
        self.left > 0 || !self.header.is_empty()
    }
}

/// Parses the length of a frame's message.
pub(super) fn frame_length(header: &[u8; HEADER_LENGTH]) -> Result<usize> {
    let [kind, 0, 0, 0, length @ ..] = *header else { return Err(invalid_header(header)) };
    let length = u32::from_be_bytes(length) as usize;
    if kind > 3 || length > MESSAGE_LENGTH_MAX { Err(invalid_header(header)) } else { Ok(length) }
}

fn invalid_header(header: &[u8]) -> Error {
    // A busy Podman 4.3 sometimes ends a log with an error as JSON. A follower reopens the log.
    if header.starts_with(br#"{"cause""#) {
        return Error::new(ErrorKind::Unavailable)
            .with_message("the engine ended the log with an error");
    }
    Error::internal(format!("the stream has an invalid frame header: {header:02x?}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[kind, 0, 0, 0], &length[..], text].concat()
    }

    fn take_all(frames: &mut Frames, mut piece: Bytes) -> Result<[Vec<u8>; 2]> {
        let mut taken = [Vec::new(), Vec::new()];
        while let Some((kind, bytes)) = frames.next(&mut piece)? {
            taken[kind as usize].extend_from_slice(&bytes);
        }
        Ok(taken)
    }

    proptest! {
        #[test]
        fn pieces_do_not_change_result(
            messages in prop::collection::vec((0_u8..3, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut wanted = [Vec::new(), Vec::new()];
            let mut wire = Vec::new();
            for (kind, text) in &messages {
                wanted[usize::from(*kind == 2)].extend_from_slice(text);
                wire.extend(frame(*kind, text));
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
            cuts.extend([0, wire.len()]);
            cuts.sort_unstable();
            let mut frames = Frames::default();
            let mut got = [Vec::new(), Vec::new()];
            for ends in cuts.windows(2) {
                let piece = Bytes::copy_from_slice(&wire[ends[0]..ends[1]]);
                for (all, part) in got.iter_mut().zip(take_all(&mut frames, piece).unwrap()) {
                    all.extend(part);
                }
            }
            prop_assert_eq!(got, wanted);
            prop_assert!(!frames.is_within());
        }
    }

    #[test]
    fn engine_error_and_invalid_stream_are_reported() {
        let mut piece = Bytes::from(frame(3, b"the disk is full"));
        let (kind, bytes) = Frames::default().next(&mut piece).unwrap().unwrap();
        assert_eq!((kind, &*message(&bytes)), (Kind::Engine, "the disk is full"));
        let noise = Bytes::from_static(b"HTTP/1.1 200 OK");
        assert_eq!(
            take_all(&mut Frames::default(), noise).unwrap_err().kind(),
            ErrorKind::Internal
        );
    }

    #[test]
    fn incomplete_message_is_detected() {
        for length in 1..12 {
            let mut frames = Frames::default();
            take_all(&mut frames, Bytes::from(frame(1, b"word")).slice(..length)).unwrap();
            assert_eq!(frames.is_within(), length < 12, "{length}");
        }
    }
}
