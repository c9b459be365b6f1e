//! Decoding of frames.

use super::frame::{
    FLAG_CLEAR_SETTINGS, FLAG_FIN, FLAG_UNIDIRECTIONAL, GOAWAY, HEADERS, PING, RST_STREAM,
    SETTINGS, SYN_REPLY, SYN_STREAM, VERSION, WINDOW_UPDATE,
};
use super::{
    CodecError, ControlFrame, Decompressor, Headers, MAX_CONTROL_PAYLOAD, MAX_STREAM_ID,
    ResetStatus, Setting,
};

/// Decoded frame or part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decoded<'a> {
    /// A control frame.
    Control(ControlFrame),
    /// A data frame, or a chunk of one.
    Data {
        /// The stream id.
        stream_id: u32,
        /// The bytes of this chunk; empty only for a frame without payload.
        data: &'a [u8],
        /// Set if the sender has finished the stream; only on the last chunk of a frame.
        fin: bool,
    },
}

/// Decoder of the frames of one direction, from chunks of any size. Control frames of unknown types
/// are skipped, as the draft requires.
#[derive(Debug, Default)]
pub struct Decoder {
    decompressor: Decompressor,
    /// The start of a frame header or of the payload of a control frame.
    partial: Vec<u8>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Header,
    Control {
        kind: u16,
        flags: u8,
        length: usize,
    },
    Data {
        stream_id: u32,
        fin: bool,
        remaining: usize,
    },
    Skip {
        remaining: usize,
    },
}

impl Decoder {
    /// Creates the decoder of a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes the next frame, or chunk of a data frame, from the front of `input`. Returns `None`
    /// if more input is needed; `input` is then empty.
    ///
    /// # Errors
    /// [`CodecError`]; the connection is unusable after that.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Decoded<'a>>, CodecError> {
        loop {
            match self.state {
                State::Header => {
                    if !self.fill_partial(8, input) {
                        return Ok(None);
                    }
                    let header = std::mem::take(&mut self.partial);
                    if let Some(empty) = self.header(&header)? {
                        return Ok(Some(empty));
                    }
                }
                State::Control { kind, flags, length } => {
                    if !self.fill_partial(length, input) {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    let payload = std::mem::take(&mut self.partial);
                    return self.control(kind, flags, &payload).map(Decoded::Control).map(Some);
                }
                State::Data { stream_id, fin, remaining } => {
                    let data = take(input, remaining);
                    if data.is_empty() {
                        return Ok(None);
                    }
                    let remaining = remaining - data.len();
                    self.state = if remaining == 0 {
                        State::Header
                    } else {
                        State::Data { stream_id, fin, remaining }
                    };
                    return Ok(Some(Decoded::Data { stream_id, data, fin: fin && remaining == 0 }));
                }
                State::Skip { remaining } => {
                    let remaining = remaining - take(input, remaining).len();
                    self.state =
                        if remaining == 0 { State::Header } else { State::Skip { remaining } };
                    if remaining > 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Fills the partial buffer up to `length` bytes; returns true if it has that length.
    fn fill_partial(&mut self, length: usize, input: &mut &[u8]) -> bool {
        self.partial.extend_from_slice(take(input, length.saturating_sub(self.partial.len())));
        self.partial.len() >= length
    }

    fn header(&mut self, header: &[u8]) -> Result<Option<Decoded<'static>>, CodecError> {
        let mut fields = Fields { rest: header, kind: 0 };
        let (first, second) = (fields.u32()?, fields.u32()?);
        let [flags, ..] = second.to_be_bytes();
        let length = usize::try_from(second & 0x00ff_ffff).unwrap_or(usize::MAX);
        if first > MAX_STREAM_ID {
            let [high, low, kind @ ..] = first.to_be_bytes();
            let (version, kind) =
                (u16::from_be_bytes([high & 0x7f, low]), u16::from_be_bytes(kind));
            if version != VERSION {
                return Err(CodecError::Version(version));
            }
            self.state = match kind {
                SYN_STREAM..=SETTINGS | PING..=WINDOW_UPDATE => {
                    if length > MAX_CONTROL_PAYLOAD {
                        return Err(CodecError::TooLarge(length));
                    }
                    State::Control { kind, flags, length }
                }
                _ => State::Skip { remaining: length },
            };
            return Ok(None);
        }
        let (stream_id, fin) = (nonzero(first)?, flags & FLAG_FIN != 0);
        if length == 0 {
            return Ok(Some(Decoded::Data { stream_id, data: &[], fin }));
        }
        self.state = State::Data { stream_id, fin, remaining: length };
        Ok(None)
    }

    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        payload: &[u8],
    ) -> Result<ControlFrame, CodecError> {
        let mut fields = Fields { rest: payload, kind };
        let fin = flags & FLAG_FIN != 0;
        let frame = match kind {
            SYN_STREAM => {
                let (stream_id, associated) = (fields.stream()?, fields.u32()? & MAX_STREAM_ID);
                let [priority, _slot] = fields.array()?;
                return Ok(ControlFrame::SynStream {
                    stream_id,
                    associated,
                    priority: priority >> 5,
                    fin,
                    unidirectional: flags & FLAG_UNIDIRECTIONAL != 0,
                    headers: self.headers(fields.rest)?,
                });
            }
            SYN_REPLY => {
                let stream_id = fields.stream()?;
                let headers = self.headers(fields.rest)?;
                return Ok(ControlFrame::SynReply { stream_id, fin, headers });
            }
            HEADERS => {
                let stream_id = fields.stream()?;
                let headers = self.headers(fields.rest)?;
                return Ok(ControlFrame::Headers { stream_id, fin, headers });
            }
            RST_STREAM => ControlFrame::RstStream {
                stream_id: fields.stream()?,
                status: ResetStatus(fields.u32()?),
            },
            SETTINGS => {
                let count = fields.u32()?;
                let mut settings = Vec::new();
                for _ in 0..count {
                    let [flags, id @ ..] = fields.array::<4>()?;
                    let id = u32::from_be_bytes([0, id[0], id[1], id[2]]);
                    settings.push(Setting { flags, id, value: fields.u32()? });
                }
                ControlFrame::Settings { clear: flags & FLAG_CLEAR_SETTINGS != 0, settings }
            }
            PING => ControlFrame::Ping { id: fields.u32()? },
            GOAWAY => ControlFrame::GoAway {
                last_good_stream_id: fields.u32()? & MAX_STREAM_ID,
                status: fields.u32()?,
            },
            WINDOW_UPDATE => ControlFrame::WindowUpdate {
                stream_id: fields.u32()? & MAX_STREAM_ID,
                delta: fields.u32()? & 0x7fff_ffff,
            },
            _ => return Err(CodecError::Malformed(kind)),
        };
        if fields.rest.is_empty() { Ok(frame) } else { Err(CodecError::Malformed(kind)) }
    }

    fn headers(&mut self, compressed: &[u8]) -> Result<Headers, CodecError> {
        Headers::from_block(&self.decompressor.decompress(compressed)?)
    }
}

/// Reader over the fields of a payload.
struct Fields<'a> {
    rest: &'a [u8],
    kind: u16,
}

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (field, rest) =
            self.rest.split_first_chunk().ok_or(CodecError::Malformed(self.kind))?;
        self.rest = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    fn stream(&mut self) -> Result<u32, CodecError> {
        nonzero(self.u32()? & MAX_STREAM_ID)
    }
}

const fn nonzero(stream_id: u32) -> Result<u32, CodecError> {
    if stream_id == 0 { Err(CodecError::StreamId(0)) } else { Ok(stream_id) }
}

/// Removes up to `length` bytes from the front of `input`.
fn take<'a>(input: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (front, rest) = input.split_at(length.min(input.len()));
    *input = rest;
    front
}
