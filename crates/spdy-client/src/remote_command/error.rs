//! Errors of remote commands.

use std::io;
use std::sync::Arc;

/// Error of opening a session or of its exit. It is `Clone`, because any number of callers can wait
/// for one exit.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The SPDY connection or one of its streams failed.
    #[error("the remote command's connection failed")]
    Spdy(#[from] crate::Error),
    /// HTTP failed before a response.
    #[error("the upgrade to SPDY failed")]
    Http(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The server responded without an upgrade.
    #[error("the server refused the upgrade to SPDY: {status} {message}")]
    Refused {
        /// The HTTP status.
        status: http::StatusCode,
        /// The first 8 KiB of the response body.
        message: String,
    },
    /// The server upgraded to another protocol.
    #[error("the server upgraded to {upgrade:?} with the subprotocol {subprotocol:?}")]
    Negotiation {
        /// The protocol of the upgrade.
        upgrade: Option<String>,
        /// The version of the remote command protocol that the server selected.
        subprotocol: Option<String>,
    },
    /// The connection ended before the outcome was received.
    #[error("the connection ended before the command's outcome was known")]
    NoOutcome(#[source] Option<crate::Error>),
    /// The server sent an invalid outcome.
    #[error("the server sent an invalid outcome")]
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
