//! Splits the engine's log stream into chunks.
//!
//! Without a terminal each message is a frame: a byte for the stream, three zeros, the length as a
//! 32-bit big-endian number, and the message. With a terminal there are no frames, and the messages
//! follow each other. The format depends on the container's configuration, and is never detected from
//! the bytes. With `timestamps=1` each message begins with its time and a space.

mod stamp;

use std::time::SystemTime;

use bytes::{Buf, Bytes, BytesMut};
use runtime_core::{Chunk, Error, ErrorKind, LogStream, Result};

use self::stamp::{Stamp, StampParser};
use super::frames::{HEADER_LENGTH, MESSAGE_LENGTH_MAX, frame_length, message};

/// The framing of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Each message is a frame.
    Frames,
    /// No frames, for a container with a terminal.
    Terminal,
}

/// The positions at which an engine splits lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Only after this number of bytes: Docker flushes a part of a line when its buffer is full, or
    /// at the end of the stream. A shorter message is the end of its line, even if the driver
    /// `local` of 20.10 has lost the line end of a split line.
    After(usize),
    /// Anywhere, as Podman's monitor reads it. On a terminal, a message without a line end is
    /// complete when a piece of the body begins with a time, because Podman flushes each message.
    Anywhere,
}

impl Cut {
    /// 16 KiB in 20.10, 26.1 and 28.5.
    pub(crate) const DOCKER: Self = Self::After(16 << 10);
}

/// Parser of a log stream.
#[derive(Debug)]
pub(crate) struct Demux {
    framing: Framing,
    cut: Cut,
    stamps: StampParser,
    /// The last pushed bytes that are not parsed yet.
    piece: Bytes,
    /// `true` if a time at the start of `piece` ends the open message.
    may_end: bool,
    /// The start of a frame or message that continues in `piece`.
    held: BytesMut,
    /// A piece that is the start of a time or belongs to the open message.
    doubtful: Bytes,
    /// The time of the open message of a terminal, whose bytes are in `held`.
    open: Option<SystemTime>,
}

impl Demux {
    pub(crate) fn new(framing: Framing, cut: Cut) -> Self {
        Self {
            framing,
            cut,
            stamps: StampParser::default(),
            piece: Bytes::new(),
            may_end: false,
            held: BytesMut::new(),
            doubtful: Bytes::new(),
            open: None,
        }
    }

    /// Pushes the next bytes. All chunks of the previous bytes have to be popped before.
    pub(crate) fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty(), "chunks were left");
        self.piece = piece;
        if !self.doubtful.is_empty() {
            let mut joined = BytesMut::from(std::mem::take(&mut self.doubtful));
            joined.extend_from_slice(&self.piece);
            self.piece = joined.freeze();
        }
        self.may_end |= self.cut == Cut::Anywhere;
    }

    /// Returns the next chunk of the pushed bytes.
    ///
    /// # Errors
    /// An error of the engine in the stream, or `Internal` if the stream is not a log. The parser
    /// cannot be used after an error.
    pub(crate) fn pop(&mut self) -> Result<Option<Chunk>> {
        match self.framing {
            Framing::Frames => self.pop_frame(),
            Framing::Terminal => self.pop_terminal(),
        }
    }

    /// Returns the last chunk after the end of the stream.
    ///
    /// # Errors
    /// `Unavailable` if the stream ended within a frame.
    pub(crate) fn finish(&mut self) -> Result<Option<Chunk>> {
        if let Some(time) = self.open {
            let doubtful = std::mem::take(&mut self.doubtful);
            self.held.extend_from_slice(&doubtful);
            return Ok(Some(self.close(time)));
        }
        if self.held.is_empty() {
            return Ok(None);
        }
        Err(Error::new(ErrorKind::Unavailable)
            .with_message("the connection was lost within a message of the log"))
    }

    fn pop_frame(&mut self) -> Result<Option<Chunk>> {
        loop {
            let known = if self.held.is_empty() { &self.piece[..] } else { &self.held[..] };
            let length = match known.first_chunk::<HEADER_LENGTH>() {
                Some(header) => HEADER_LENGTH + frame_length(header)?,
                None => HEADER_LENGTH,
            };
            if self.held.is_empty() && length <= self.piece.len() {
                let frame = self.piece.split_to(length);
                if let Some(chunk) = self.frame(frame)? {
                    return Ok(Some(chunk));
                }
                continue;
            }
            let missing = length.saturating_sub(self.held.len()).min(self.piece.len());
            self.held.extend_from_slice(&self.piece[..missing]);
            self.piece.advance(missing);
            if self.held.len() < length {
                return Ok(None);
            }
            // If only the header was held, the length is known only now.
            let header = self.held.first_chunk::<HEADER_LENGTH>().copied().unwrap_or_default();
            if self.held.len() == HEADER_LENGTH + frame_length(&header)? {
                let frame = self.held.split().freeze();
                if let Some(chunk) = self.frame(frame)? {
                    return Ok(Some(chunk));
                }
            }
        }
    }

    /// Parses a whole frame. Returns `None` if it is empty.
    fn frame(&mut self, mut frame: Bytes) -> Result<Option<Chunk>> {
        let kind = frame[0];
        frame.advance(HEADER_LENGTH);
        let stream = match kind {
            // Docker's command line writes frames of stdin to stdout too.
            0 | 1 => LogStream::Stdout,
            2 => LogStream::Stderr,
            _ => return Err(engine_error(&frame)),
        };
        if frame.is_empty() {
            return Ok(None);
        }
        match self.stamps.parse(&frame) {
            Stamp::Time(time, length) => {
                frame.advance(length);
                Ok(Some(self.chunk(time, stream, frame)))
            }
            // Engines up to 20.10 write their errors into the container's streams.
            Stamp::Incomplete | Stamp::Invalid => Err(engine_error(&frame)),
        }
    }

    fn pop_terminal(&mut self) -> Result<Option<Chunk>> {
        loop {
            let Some(time) = self.open else {
                if !self.read_time()? {
                    return Ok(None);
                }
                continue;
            };
            if self.piece.is_empty() {
                return Ok(None);
            }
            if std::mem::take(&mut self.may_end) {
                match self.stamps.parse(&self.piece) {
                    Stamp::Time(..) => return Ok(Some(self.close(time))),
                    Stamp::Incomplete => {
                        self.may_end = true;
                        self.doubtful = std::mem::take(&mut self.piece);
                        return Ok(None);
                    }
                    // The buffers of other drivers are longer.
                    Stamp::Invalid => {}
                }
            }
            let full = match self.cut {
                Cut::After(full) if self.held.len() < full => full,
                _ => MESSAGE_LENGTH_MAX,
            };
            let room = full.saturating_sub(self.held.len()).min(self.piece.len());
            let end = self.piece[..room].iter().position(|&byte| byte == b'\n');
            let length = end.map_or(room, |end| end + 1);
            if end.is_some() && self.held.is_empty() {
                self.open = None;
                let line = self.piece.split_to(length);
                return Ok(Some(self.chunk(time, LogStream::Console, line)));
            }
            self.held.extend_from_slice(&self.piece[..length]);
            self.piece.advance(length);
            if end.is_some() || self.held.len() >= MESSAGE_LENGTH_MAX {
                return Ok(Some(self.close(time)));
            }
            self.may_end = self.held.len() == full;
        }
    }

    /// Parses the time of a message. Returns `false` if it is incomplete.
    fn read_time(&mut self) -> Result<bool> {
        if self.piece.is_empty() {
            return Ok(false);
        }
        let short = self.held.len();
        if short == 0 {
            match self.stamps.parse(&self.piece) {
                Stamp::Time(time, length) => {
                    self.piece.advance(length);
                    self.open(time);
                    return Ok(true);
                }
                Stamp::Invalid => return Err(engine_error(&self.piece)),
                Stamp::Incomplete => {}
            }
        }
        let more = self.piece.len().min(stamp::LENGTH_MAX - short.min(stamp::LENGTH_MAX));
        self.held.extend_from_slice(&self.piece[..more]);
        match self.stamps.parse(&self.held) {
            Stamp::Time(time, length) => {
                self.piece.advance(length - short);
                self.held.clear();
                self.open(time);
                Ok(true)
            }
            Stamp::Incomplete if more == self.piece.len() => {
                self.piece.clear();
                Ok(false)
            }
            Stamp::Incomplete | Stamp::Invalid => {
                self.held.extend_from_slice(&self.piece[more..]);
                Err(engine_error(&self.held))
            }
        }
    }

    /// Begins the message of this time.
    fn open(&mut self, time: SystemTime) {
        self.open = Some(time);
        self.may_end = false;
    }

    /// Ends the open message.
    fn close(&mut self, time: SystemTime) -> Chunk {
        self.open = None;
        let bytes = self.held.split().freeze();
        self.chunk(time, LogStream::Console, bytes)
    }

    fn chunk(&self, time: SystemTime, stream: LogStream, bytes: Bytes) -> Chunk {
        let ends_line = bytes.last() == Some(&b'\n')
            || matches!(self.cut, Cut::After(full) if bytes.len() < full);
        Chunk { time, stream, bytes, ends_line }
    }
}

/// Returns the error of an engine that wrote an error in place of a message.
pub(crate) fn engine_error(text: &[u8]) -> Error {
    Error::internal(format!("the engine failed to read the log: {}", message(text)))
}

#[cfg(test)]
mod tests;
