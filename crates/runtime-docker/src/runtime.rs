//! A connected engine.

use std::fmt;
use std::sync::Arc;

use runtime_core::{Capabilities, Operation, Result, ResultExt, Scope};

use crate::BACKEND;
use crate::connect::DockerOptions;
use crate::connector::Connector;
use crate::engine::Engine;
use crate::http::{Http, bollard};
use crate::shared::{Shared, within};

/// A connection to a Docker Engine or a Podman service.
///
/// Clones share the connection. Dropping the last one, and the last of its containers' handles,
/// closes it.
#[derive(Clone)]
pub struct DockerRuntime {
    shared: Arc<Shared>,
}

impl fmt::Debug for DockerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerRuntime")
            .field("endpoint", &format_args!("{}", self.shared.http.endpoint()))
            .field("engine", &format_args!("{}", self.shared.engine))
            .field("scope", &self.shared.scope)
            .finish_non_exhaustive()
    }
}

impl DockerRuntime {
    /// Connects to an engine: finds out where it is, asks it who it is, and agrees with it on a
    /// version of the API.
    ///
    /// # Errors
    /// `InvalidArgument` or `Unsupported` when the options or the environment name no place that
    /// can be used; `Unavailable` when nobody is there, or no engine; `Timeout` when it does not
    /// answer; `PermissionDenied` when this user may not open the socket; `Unsupported` when the
    /// engine is too old (API before 1.41, Engine 20.10) or runs no Linux containers.
    pub async fn connect(options: DockerOptions) -> Result<Self> {
        Self::open(options).await.during(Operation::Connect).on(BACKEND)
    }

    async fn open(options: DockerOptions) -> Result<Self> {
        let endpoint = options.endpoint()?;
        let DockerOptions { scope, deadlines, .. } = options;
        let connector = Connector::new(&endpoint, deadlines.connect)?;
        let mut http = Http::new(endpoint, connector);
        let engine =
            within(Operation::Connect, deadlines.connect, Engine::identify(&mut http)).await?;
        let capabilities = Capabilities::default();
        let http = Arc::new(http);
        let docker = bollard(&http)?;
        let shared = Shared { http, docker, scope, deadlines, engine, capabilities };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How many requests this connection has sent to the engine so far, those that were repeated
    /// counted each time.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        self.shared.http.requests_sent()
    }
}
