//! Encoding of frames.

use bytes::{BufMut, BytesMut};

use super::frame::{
    FLAG_CLEAR_SETTINGS, FLAG_FIN, FLAG_UNIDIRECTIONAL, GOAWAY, HEADERS, PING, RST_STREAM,
    SETTINGS, SYN_REPLY, SYN_STREAM, VERSION, WINDOW_UPDATE,
};
use super::{CodecError, Compressor, ControlFrame, Headers, MAX_PAYLOAD, MAX_STREAM_ID};

/// Encoder of the frames of one direction, in sending order.
#[derive(Debug)]
pub struct Encoder {
    compressor: Compressor,
}

impl Encoder {
    /// Creates the encoder of a new connection.
    ///
    /// # Errors
    /// [`CodecError::Compression`] if the header compression fails to start.
    pub fn new() -> Result<Self, CodecError> {
        Ok(Self { compressor: Compressor::new()? })
    }

    /// Appends a control frame to `out`.
    ///
    /// # Errors
    /// A stream id of more than 31 bits, or a header block or list of settings that is too large.
    /// `out` is unchanged then. After a compression error the encoder is unusable.
    pub fn control(&mut self, frame: &ControlFrame, out: &mut BytesMut) -> Result<(), CodecError> {
        let mut payload = BytesMut::new();
        let (kind, flags) = match frame {
            ControlFrame::SynStream {
                stream_id,
                associated,
                priority,
                fin,
                unidirectional,
                headers,
            } => {
                payload.put_u32(stream(*stream_id)?);
                payload.put_u32(associated & MAX_STREAM_ID);
                payload.put_u8(priority.min(&7) << 5);
                payload.put_u8(0);
                self.headers(headers, &mut payload)?;
                let unidirectional = if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
                (SYN_STREAM, fin_flag(*fin) | unidirectional)
            }
            ControlFrame::SynReply { stream_id, fin, headers } => {
                payload.put_u32(stream(*stream_id)?);
                self.headers(headers, &mut payload)?;
                (SYN_REPLY, fin_flag(*fin))
            }
            ControlFrame::RstStream { stream_id, status } => {
                payload.put_u32(stream(*stream_id)?);
                payload.put_u32(status.0);
                (RST_STREAM, 0)
            }
            ControlFrame::Settings { clear, settings } => {
                let count = u32::try_from(settings.len())
                    .map_err(|_| CodecError::TooLarge(settings.len()))?;
                payload.put_u32(count);
                for setting in settings {
                    payload.put_u32(u32::from(setting.flags) << 24 | setting.id & 0x00ff_ffff);
                    payload.put_u32(setting.value);
                }
                (SETTINGS, if *clear { FLAG_CLEAR_SETTINGS } else { 0 })
            }
            ControlFrame::Ping { id } => {
                payload.put_u32(*id);
                (PING, 0)
            }
            ControlFrame::GoAway { last_good_stream_id, status } => {
                payload.put_u32(last_good_stream_id & MAX_STREAM_ID);
                payload.put_u32(*status);
                (GOAWAY, 0)
            }
            ControlFrame::Headers { stream_id, fin, headers } => {
                payload.put_u32(stream(*stream_id)?);
                self.headers(headers, &mut payload)?;
                (HEADERS, fin_flag(*fin))
            }
            ControlFrame::WindowUpdate { stream_id, delta } => {
                payload.put_u32(stream_id & MAX_STREAM_ID);
                payload.put_u32(delta & 0x7fff_ffff);
                (WINDOW_UPDATE, 0)
            }
        };
        let length = length(payload.len())?;
        out.reserve(8 + payload.len());
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        out.put_u32(u32::from(flags) << 24 | length);
        out.extend_from_slice(&payload);
        Ok(())
    }

    /// Appends a data frame to `out`.
    ///
    /// # Errors
    /// [`CodecError::StreamId`] or [`CodecError::TooLarge`]; `out` is unchanged then.
    pub fn data(
        stream_id: u32,
        fin: bool,
        data: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), CodecError> {
        let (stream_id, length) = (stream(stream_id)?, length(data.len())?);
        out.reserve(8 + data.len());
        out.put_u32(stream_id);
        out.put_u32(u32::from(fin_flag(fin)) << 24 | length);
        out.extend_from_slice(data);
        Ok(())
    }

    fn headers(&mut self, headers: &Headers, payload: &mut BytesMut) -> Result<(), CodecError> {
        payload.extend_from_slice(&self.compressor.compress(&headers.to_block()?)?);
        Ok(())
    }
}

const fn fin_flag(fin: bool) -> u8 {
    if fin { FLAG_FIN } else { 0 }
}

const fn stream(id: u32) -> Result<u32, CodecError> {
    if id == 0 || id > MAX_STREAM_ID { Err(CodecError::StreamId(id)) } else { Ok(id) }
}

fn length(length: usize) -> Result<u32, CodecError> {
    match u32::try_from(length) {
        Ok(value) if length <= MAX_PAYLOAD => Ok(value),
        _ => Err(CodecError::TooLarge(length)),
    }
}
