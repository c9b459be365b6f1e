//! Takes a stream of frames apart whose messages have no times: a session's, and a raw log's.

use bytes::{Buf, Bytes, BytesMut};
use runtime_core::{Error, ErrorKind, Result};

/// The longest message that is believed. Docker's are 16 KiB and a time; Podman joins pieces of a
/// line at times. More than this is no log.
pub(super) const LONGEST: usize = 16 << 20;

/// The length of a frame's header.
pub(super) const HEADER: usize = 8;

/// The longest text of an engine's error that is passed on.
const LONGEST_ERROR: usize = 1024;

/// What the engine said in place of a message.
pub(crate) fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST_ERROR)]).trim().to_owned()
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stdout,
    Stderr,
    /// The engine's own words: it cannot go on.
    Engine,
}

/// Takes messages apart as they come, without waiting for the whole of one.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The beginning of a header.
    header: BytesMut,
    /// How long the message is that is open, and what is left of it.
    length: usize,
    left: usize,
    /// Whether the bytes that were given last are the beginning of a message.
    begins: bool,
    kind: u8,
}

impl Frames {
    /// The next bytes of a stream in `piece`; none when all of it was taken.
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
                    // Standard input is shown where output is, as Docker's own client does.
                    0 | 1 => Kind::Stdout,
                    2 => Kind::Stderr,
                    _ => Kind::Engine,
                };
                return Ok(Some((kind, bytes)));
            }
            let missing = (HEADER - self.header.len()).min(piece.len());
            self.header.extend_from_slice(&piece[..missing]);
            piece.advance(missing);
            if let Some(header) = self.header.first_chunk::<HEADER>() {
                self.length = frame_length(header)?;
                self.left = self.length;
                self.kind = header[0];
                self.header.clear();
            }
        }
    }

    /// Whether the bytes that were given last are the beginning of a message.
    pub(crate) fn begins(&self) -> bool {
        self.begins
    }

    /// Whether a message was begun.
    pub(crate) fn is_within(&self) -> bool {
        self.left > 0 || !self.header.is_empty()
    }
}

/// The length of a frame's message.
pub(super) fn frame_length(header: &[u8; HEADER]) -> Result<usize> {
    let [kind, 0, 0, 0, length @ ..] = *header else { return Err(no_log(header)) };
    let length = u32::from_be_bytes(length) as usize;
    if kind > 3 || length > LONGEST { Err(no_log(header)) } else { Ok(length) }
}

fn no_log(header: &[u8]) -> Error {
    // Podman 4.3 was seen to end a log that it had begun to give with the JSON of an error, when it
    // was busy. A follower opens the log again.
    if header.starts_with(br#"{"cause""#) {
        return Error::new(ErrorKind::Unavailable)
            .with_message("the engine has put an error of its own in place of the log");
    }
    Error::internal(format!("the stream is not what the engine's API says: {header:02x?}"))
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
        fn cuts_change_nothing(
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
    fn an_error_of_the_engine_and_a_stream_that_is_none_are_errors() {
        let mut piece = Bytes::from(frame(3, b"the disk is full"));
        let (kind, bytes) = Frames::default().next(&mut piece).unwrap().unwrap();
        assert_eq!((kind, &*words(&bytes)), (Kind::Engine, "the disk is full"));
        let noise = Bytes::from_static(b"HTTP/1.1 200 OK");
        assert_eq!(
            take_all(&mut Frames::default(), noise).unwrap_err().kind(),
            ErrorKind::Internal
        );
    }

    #[test]
    fn the_middle_of_a_message_is_known() {
        for length in 1..12 {
            let mut frames = Frames::default();
            take_all(&mut frames, Bytes::from(frame(1, b"word")).slice(..length)).unwrap();
            assert_eq!(frames.is_within(), length < 12, "{length}");
        }
    }
}
