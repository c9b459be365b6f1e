//! What can go wrong with a remote command, apart from the command.

use std::io;
use std::sync::Arc;

/// Why a session did not open, or what became of it. It can be cloned, because any number of
/// callers may wait for one exit.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The SPDY connection or one of its streams failed.
    #[error("the remote command's connection failed")]
    Spdy(#[from] crate::Error),
    /// HTTP failed before there was an answer.
    #[error("the upgrade to SPDY failed")]
    Http(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The server answered, and did not upgrade.
    #[error("the server refused the upgrade to SPDY: {status} {message}")]
    Refused {
        /// The HTTP status.
        status: http::StatusCode,
        /// What the server said, up to 8 KiB of it.
        message: String,
    },
    /// The server upgraded to something else.
    #[error("the server upgraded to {upgrade:?} with the subprotocol {subprotocol:?}")]
    Negotiation {
        /// What it upgraded to.
        upgrade: Option<String>,
        /// Which version of the remote command protocol it chose.
        subprotocol: Option<String>,
    },
    /// The connection ended before the outcome was known.
    #[error("the connection ended before the command's outcome was known")]
    NoOutcome(#[source] Option<crate::Error>),
    /// The server sent an outcome that says nothing.
    #[error("the server sent an outcome that cannot be read")]
    MalformedOutcome,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Spdy(error) => error.into(),
            error => Self::other(error),
        }
    }
}
