//! Encoding and decoding of frames, without I/O.
//!
//! Control frames are values ([`ControlFrame`]); the payload of data frames is passed on in chunks
//! ([`Decoded::Data`]), so that a frame of 16 MiB is not buffered.

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

/// Largest stream id: ids have 31 bits.
pub const MAX_STREAM_ID: u32 = 0x7fff_ffff;

/// Largest payload of a frame in bytes: lengths have 24 bits.
pub const MAX_PAYLOAD: usize = 0x00ff_ffff;

/// Largest accepted payload of a control frame in bytes. The draft requires at least 8 KiB; the
/// frames of remote commands have less than 100 bytes.
pub const MAX_CONTROL_PAYLOAD: usize = 64 * 1024;

/// Largest accepted header block after decompression, in bytes.
pub const MAX_HEADER_BLOCK: usize = 64 * 1024;

/// Error of the codec. Every error ends the connection, because the peers may then disagree about
/// frame boundaries or the state of the header compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// A control frame of another version of SPDY.
    #[error("a frame of SPDY version {0} instead of 3")]
    Version(u16),
    /// A frame above the size limit.
    #[error("a frame of {0} bytes is too large")]
    TooLarge(usize),
    /// A frame whose fields do not match its length.
    #[error("a malformed control frame of type {0}")]
    Malformed(u16),
    /// A missing stream id, or one of more than 31 bits.
    #[error("a frame with the stream id {0}")]
    StreamId(u32),
    /// A header block that fails to decompress.
    #[error("failed to decompress a header block")]
    Decompression,
    /// A header block that fails to compress.
    #[error("failed to compress a header block")]
    Compression,
    /// An invalid header block, name or value.
    #[error("a malformed header block")]
    Headers,
}
