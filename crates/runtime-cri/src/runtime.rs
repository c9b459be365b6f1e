//! Public type of a connection.

use std::fmt;

use runtime_core::{Operation, Result, ResultExt};
use runtime_support::backend::Connected;

use crate::BACKEND;
use crate::connect;
use crate::options::CriOptions;
use crate::state::CriBackend;
use crate::state::connection::Ownership;
use crate::state::rotation;

/// Connection to an engine with the CRI. It is tested with containerd.
///
/// Clones share the connection, which closes when the last clone and the last container handle are
/// dropped.
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
    /// Connects to an engine, and requests its identity and its capabilities.
    ///
    /// # Errors
    /// `InvalidArgument` if an option or `CONTAINER_RUNTIME_ENDPOINT` is not valid; `Unavailable` if
    /// no engine responds, with the sockets that were tried; `Timeout` if the engine does not respond
    /// in time; `PermissionDenied` if this user may not open the socket; `Unsupported` if the engine
    /// lacks version 1 of the CRI.
    pub async fn connect(options: CriOptions) -> Result<Self> {
        let backend = connect::open(options, Ownership::Managed).await;
        Ok(Self { inner: Connected::new(backend.during(Operation::Connect).on(BACKEND)?) })
    }

    /// Returns the number of requests that this connection has sent to the engine.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        self.inner.inner().connection.client.requests_sent()
    }

    /// Rotates the log of each running container of the scope whose current file has more than
    /// `max_bytes`, without a wait for the next check of
    /// [`LogRotation`](crate::LogRotation). Returns the number of rotated logs.
    ///
    /// A rotation that has begun completes if the future is dropped. If a process is killed between
    /// the two steps of a rotation, the next call in any process completes it.
    ///
    /// # Errors
    /// `InvalidArgument` if `keep` is zero. Those of a list, and `Internal` if a file cannot be
    /// renamed.
    pub async fn rotate_logs(&self, max_bytes: u64, keep: Option<u32>) -> Result<usize> {
        let connection = &self.inner.inner().connection;
        let rotated = rotation::rotate_all(connection, max_bytes, keep);
        self.inner.call(Operation::Logs, rotated).await
    }
}

runtime_support::delegate_runtime!(CriRuntime);
