//! Frames to bytes and back, without any I/O.
//!
//! Control frames are values ([`ControlFrame`]); the payload of data frames is passed through in
//! pieces as it comes ([`Decoded::Data`]), so that a 16 MiB frame needs no 16 MiB of memory.

mod compress;
mod decode;
mod encode;
mod frame;
mod headers;

pub use compress::{Compressor, DICTIONARY_ADLER32, Decompressor, dictionary};
pub use decode::{Decoded, Decoder};
pub use encode::Encoder;
pub use frame::{ControlFrame, ResetStatus, Setting};
pub use headers::Headers;

/// The largest stream id: ids have 31 bits.
pub const MAX_STREAM_ID: u32 = 0x7fff_ffff;

/// The largest payload of one frame in bytes: lengths have 24 bits.
pub const MAX_PAYLOAD: usize = 0x00ff_ffff;

/// The largest payload of a control frame that is accepted, in bytes. The draft asks for at least
/// 8 KiB; the frames of remote commands have less than 100 bytes.
pub const MAX_CONTROL_PAYLOAD: usize = 64 * 1024;

/// The largest header block that is accepted after decompression, in bytes.
pub const MAX_HEADER_BLOCK: usize = 64 * 1024;

/// What makes a frame unusable. Each of them ends the connection: after one the two sides may not
/// agree on where frames begin, or on the state of the header compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A control frame of another version of SPDY.
    #[error("a frame of SPDY version {0} instead of 3")]
    Version(u16),
    /// A frame larger than what is accepted or what can be written.
    #[error("a frame of {0} bytes is too large")]
    TooLarge(usize),
    /// A frame whose fields do not fit its length.
    #[error("a malformed control frame of type {0}")]
    Malformed(u16),
    /// A frame that needs a stream id has none, or one of more than 31 bits.
    #[error("a frame with the stream id {0}")]
    StreamId(u32),
    /// A header block that cannot be decompressed.
    #[error("a header block that cannot be decompressed")]
    Decompression,
    /// A header block that cannot be compressed.
    #[error("a header block that cannot be compressed")]
    Compression,
    /// A header block that does not parse, or a name or value that has no place in one.
    #[error("a malformed header block")]
    Headers,
}
