//! Errors of connections and streams.

use std::io;
use std::sync::Arc;

use crate::codec::{CodecError, ResetStatus};

/// Error of a connection or stream. It is `Clone`, because every waiter of a connection receives
/// the error that ended it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The transport failed.
    #[error("the transport failed")]
    Io(#[source] Arc<io::Error>),
    /// The peer has sent nothing, not even ping responses, for
    /// [`silence_limit`](crate::Config::silence_limit).
    #[error("the peer does not respond")]
    Silent,
    /// The peer violated SPDY/3.1.
    #[error("the peer violated the protocol")]
    Protocol(#[from] CodecError),
    /// The peer reset the stream.
    #[error("the peer reset the stream: {0}")]
    Reset(ResetStatus),
    /// The peer accepts no more streams, or did not accept this one, with the status of its
    /// `GOAWAY`: 0 is a regular end, 1 a protocol error, 2 an internal error.
    #[error("the peer is going away (status {0})")]
    GoneAway(u32),
    /// The connection was closed by either side.
    #[error("the connection is closed")]
    Closed,
    /// The write half is already finished.
    #[error("the stream is already finished")]
    Finished,
    /// The connection has used all of its 2^30 stream ids.
    #[error("the connection has no stream ids left")]
    Exhausted,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io(source) => source.kind(),
            Error::Silent => io::ErrorKind::TimedOut,
            Error::Protocol(_) => io::ErrorKind::InvalidData,
            Error::Reset(_) => io::ErrorKind::ConnectionReset,
            Error::GoneAway(_) => io::ErrorKind::ConnectionAborted,
            Error::Closed => io::ErrorKind::NotConnected,
            Error::Finished => io::ErrorKind::BrokenPipe,
            Error::Exhausted => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
