//! What can go wrong with a connection and its streams.

use std::io;
use std::sync::Arc;

use crate::codec::{CodecError, ResetStatus};

/// Why a connection or a stream cannot go on. It can be cloned, because everything that waits on a
/// connection learns of its end.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The transport failed.
    #[error("the transport failed")]
    Io(#[source] Arc<io::Error>),
    /// The other side has sent nothing for [`silence_limit`](crate::Config::silence_limit), not even
    /// answers to pings.
    #[error("the other side is silent")]
    Silent,
    /// The other side sent what is no SPDY/3.1.
    #[error("the other side broke the protocol")]
    Protocol(#[from] CodecError),
    /// The other side reset the stream.
    #[error("the other side reset the stream: {0}")]
    Reset(ResetStatus),
    /// The other side takes no more streams, or did not take this one; with the status of its
    /// `GOAWAY`: 0 is a regular end, 1 a protocol error, 2 an internal error.
    #[error("the other side is going away (status {0})")]
    GoneAway(u32),
    /// The connection has ended, here or there.
    #[error("the connection is closed")]
    Closed,
    /// The write half was finished already.
    #[error("the stream was finished before")]
    Finished,
    /// The connection has used up its 2^30 stream ids.
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
