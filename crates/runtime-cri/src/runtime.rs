//! The public type of a connection.

use std::fmt;

use runtime_core::{Operation, Result, ResultExt};
use runtime_support::backend::Connected;

use crate::BACKEND;
use crate::connect;
use crate::options::CriOptions;
use crate::state::CriBackend;
use crate::state::connection::Ownership;
use crate::state::rotation;

/// A connection to an engine that speaks the CRI. It was run on containerd only.
///
/// Clones share the connection. Dropping the last one, and the last of its containers' handles,
/// closes it.
#[derive(Clone)]
pub struct CriRuntime {
    inner: Connected<CriBackend>,
}

impl fmt::Debug for CriRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = &self.inner.inner().connection;
        f.debug_struct("CriRuntime")
            .field("endpoint", &format_args!("{}", connection.client.endpoint()))
            .field("engine", &format_args!("{}", connection.engine))
            .field("scope", &connection.context.scope)
            .finish_non_exhaustive()
    }
}

impl CriRuntime {
    /// Connects to an engine: finds out where it is, and asks it who it is and what it can do.
    ///
    /// # Errors
    /// `InvalidArgument` when an option or `CONTAINER_RUNTIME_ENDPOINT` makes no sense;
    /// `Unavailable` when nobody is there, or no engine, with the sockets that were tried;
    /// `Timeout` when it does not answer; `PermissionDenied` when this user may not open the
    /// socket; `Unsupported` when it does not speak version 1 of the CRI.
    pub async fn connect(options: CriOptions) -> Result<Self> {
        let backend = connect::open(options, Ownership::Managed).await;
        Ok(Self { inner: Connected::new(backend.during(Operation::Connect).on(BACKEND)?) })
    }

    /// How many requests this connection has sent to the engine so far.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        self.inner.inner().connection.client.requests_sent()
    }

    /// Begins a new log file for each running container of the scope whose current one has more
    /// than `max_bytes`, without waiting for the time at which
    /// [`LogRotation`](crate::LogRotation) looks. Gives how many were begun.
    ///
    /// A file that was begun for a container is finished also when the future is dropped. What a
    /// process that was killed has left between the two steps of it is mended by the next call, in
    /// whichever process.
    ///
    /// # Errors
    /// `InvalidArgument` where `keep` is zero. When the containers cannot be listed, or the files cannot be renamed.
    pub async fn rotate_logs(&self, max_bytes: u64, keep: Option<u32>) -> Result<usize> {
        let connection = &self.inner.inner().connection;
        let rotated = rotation::rotate_all(connection, max_bytes, keep);
        self.inner.call(Operation::Logs, rotated).await
    }
}

runtime_support::delegate_runtime!(CriRuntime);
