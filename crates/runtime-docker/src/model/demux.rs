//! Takes an engine's log stream apart into chunks.
//!
//! Without a terminal each message is a frame: a byte for the stream, three zeros, the length as
//! four bytes, big end first, and the message. With a terminal there are no frames, and one message
//! follows the other. Which of the two it is follows from how the container was made, and is never
//! guessed from the bytes. With `timestamps=1` each message begins with its time and a space.

mod stamp;

use std::time::SystemTime;

use bytes::{Buf, Bytes, BytesMut};
use runtime_core::{Chunk, Error, ErrorKind, LogStream, Result};

use self::stamp::{Clock, Stamp};
use super::frames::{HEADER, LONGEST, frame_length, words};

/// How messages are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By frames.
    Frames,
    /// By their contents, of a container with a terminal.
    Terminal,
}

/// Where engines cut lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// After so many bytes, and nowhere else: Docker gives out what it has of a line when its
    /// buffer is full or at the end of the stream. A shorter message is the end of its line, also
    /// where the driver `local` of 20.10 has lost the line end of a line that was cut.
    After(usize),
    /// Anywhere, as Podman's monitor reads it. On a terminal, a message without a line end is over
    /// when a piece of the body begins with a time, because Podman flushes each message.
    Anywhere,
}

impl Cut {
    /// 16 KiB in 20.10, 26.1 and 28.5.
    pub(crate) const DOCKER: Self = Self::After(16 << 10);
}

/// Takes bytes in, gives chunks out.
#[derive(Debug)]
pub(crate) struct Demux {
    framing: Framing,
    cut: Cut,
    clock: Clock,
    /// What was taken in last and not yet looked at.
    piece: Bytes,
    /// Whether a message that is open may end where `piece` begins, if a time stands there.
    may_end: bool,
    /// The beginning of a frame or a message that goes on in `piece`.
    held: BytesMut,
    /// A piece that may be the beginning of a time or go on with the open message.
    doubtful: Bytes,
    /// The message of a terminal whose time was read; its bytes so far are in `held`.
    open: Option<SystemTime>,
}

impl Demux {
    pub(crate) fn new(framing: Framing, cut: Cut) -> Self {
        Self {
            framing,
            cut,
            clock: Clock::default(),
            piece: Bytes::new(),
            may_end: false,
            held: BytesMut::new(),
            doubtful: Bytes::new(),
            open: None,
        }
    }

    /// Takes the next bytes. All chunks have to be taken out before.
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

    /// The next chunk of what was taken in.
    ///
    /// # Errors
    /// The engine's own error in the stream; a stream that is no log. Nothing can be taken out
    /// after it.
    pub(crate) fn pop(&mut self) -> Result<Option<Chunk>> {
        match self.framing {
            Framing::Frames => self.pop_frame(),
            Framing::Terminal => self.pop_terminal(),
        }
    }

    /// The stream has ended in order: what is left is the last chunk.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and `Unavailable` when the stream ended within a frame.
    pub(crate) fn finish(&mut self) -> Result<Option<Chunk>> {
        if let Some(time) = self.open {
            let doubtful = std::mem::take(&mut self.doubtful);
            self.held.extend_from_slice(&doubtful);
            return Ok(Some(self.close(time)));
        }
        if self.held.is_empty() {
            return Ok(None);
        }
        Err(Error::new(ErrorKind::Unavailable).with_message("the log was cut off within a message"))
    }

    fn pop_frame(&mut self) -> Result<Option<Chunk>> {
        loop {
            let known = if self.held.is_empty() { &self.piece[..] } else { &self.held[..] };
            let length = match known.first_chunk::<HEADER>() {
                Some(header) => HEADER + frame_length(header)?,
                None => HEADER,
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
            // With the header alone, the length has only now become known.
            let header = self.held.first_chunk::<HEADER>().copied().unwrap_or_default();
            if self.held.len() == HEADER + frame_length(&header)? {
                let frame = self.held.split().freeze();
                if let Some(chunk) = self.frame(frame)? {
                    return Ok(Some(chunk));
                }
            }
        }
    }

    /// One whole frame; none if there is nothing in it.
    fn frame(&mut self, mut frame: Bytes) -> Result<Option<Chunk>> {
        let kind = frame[0];
        frame.advance(HEADER);
        let stream = match kind {
            // Standard input is shown where output is, as Docker's own client does.
            0 | 1 => LogStream::Stdout,
            2 => LogStream::Stderr,
            _ => return Err(engine_error(&frame)),
        };
        if frame.is_empty() {
            return Ok(None);
        }
        match self.clock.read(&frame) {
            Stamp::Time(time, length) => {
                frame.advance(length);
                Ok(Some(self.chunk(time, stream, frame)))
            }
            // Engines up to 20.10 write an error as if the container had.
            Stamp::Short | Stamp::No => Err(engine_error(&frame)),
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
                match self.clock.read(&self.piece) {
                    Stamp::Time(..) => return Ok(Some(self.close(time))),
                    Stamp::Short => {
                        self.may_end = true;
                        self.doubtful = std::mem::take(&mut self.piece);
                        return Ok(None);
                    }
                    // Another driver's buffer is longer.
                    Stamp::No => {}
                }
            }
            let full = match self.cut {
                Cut::After(full) if self.held.len() < full => full,
                _ => LONGEST,
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
            if end.is_some() || self.held.len() >= LONGEST {
                return Ok(Some(self.close(time)));
            }
            self.may_end = self.held.len() == full;
        }
    }

    /// Reads the time of a message; false if it is not all there.
    fn read_time(&mut self) -> Result<bool> {
        if self.piece.is_empty() {
            return Ok(false);
        }
        let short = self.held.len();
        if short == 0 {
            match self.clock.read(&self.piece) {
                Stamp::Time(time, length) => {
                    self.piece.advance(length);
                    self.open(time);
                    return Ok(true);
                }
                Stamp::No => return Err(engine_error(&self.piece)),
                Stamp::Short => {}
            }
        }
        let more = self.piece.len().min(stamp::LONGEST - short.min(stamp::LONGEST));
        self.held.extend_from_slice(&self.piece[..more]);
        match self.clock.read(&self.held) {
            Stamp::Time(time, length) => {
                self.piece.advance(length - short);
                self.held.clear();
                self.open(time);
                Ok(true)
            }
            Stamp::Short if more == self.piece.len() => {
                self.piece.clear();
                Ok(false)
            }
            Stamp::Short | Stamp::No => {
                self.held.extend_from_slice(&self.piece[more..]);
                Err(engine_error(&self.held))
            }
        }
    }

    /// Opens the message of this time.
    fn open(&mut self, time: SystemTime) {
        self.open = Some(time);
        self.may_end = false;
    }

    /// Closes the message that is open.
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

/// What the engine wrote in place of a message.
pub(crate) fn engine_error(text: &[u8]) -> Error {
    Error::internal(format!("the engine cannot read the log on: {}", words(text)))
}

#[cfg(test)]
mod tests;
