//! The public runtime.

use std::fmt;
use std::sync::Arc;

use runtime_core::{Operation, Result, ResultExt};
use runtime_support::backend::Connected;
use runtime_support::delegate_runtime;

use crate::connect::connect;
use crate::error::BACKEND;
use crate::options::DockerOptions;
use crate::state::DockerBackend;

/// A connection to a Docker Engine or a Podman service.
///
/// Clones share the connection. The connection closes when the last clone and the last handle of its
/// containers are dropped.
#[derive(Clone)]
pub struct DockerRuntime {
    inner: Connected<DockerBackend>,
}

impl fmt::Debug for DockerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = self.inner.inner();
        f.debug_struct("DockerRuntime")
            .field("endpoint", &format_args!("{}", backend.http.endpoint()))
            .field("engine", &format_args!("{}", backend.engine))
            .field("scope", backend.scope())
            .finish_non_exhaustive()
    }
}

impl DockerRuntime {
    /// Connects to an engine: resolves its endpoint, identifies it, and negotiates the version of
    /// the API.
    ///
    /// # Errors
    /// - `InvalidArgument` or `Unsupported` if the options or the environment name no usable endpoint
    /// - `Unavailable` if the connection fails, or the peer is not an engine
    /// - `Timeout` if the engine does not respond
    /// - `PermissionDenied` if this user may not open the socket
    /// - `Unsupported` if the engine is too old (API before 1.41, Engine 20.10) or runs no Linux
    ///   containers
    pub async fn connect(options: DockerOptions) -> Result<Self> {
        let backend = connect(options).await.during(Operation::Connect).on(BACKEND)?;
        Ok(Self { inner: Connected::new(Arc::new(backend)) })
    }

    /// Returns the number of requests that this connection has sent to the engine, each retry
    /// counted.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        self.inner.inner().http.requests_sent()
    }
}

delegate_runtime!(DockerRuntime);
