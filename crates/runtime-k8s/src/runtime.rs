//! The public runtime.

use std::fmt;
use std::sync::Arc;

use runtime_core::Result;
use runtime_support::backend::Connected;
use runtime_support::delegate_runtime;

use crate::connect::{connect, connect_with};
use crate::options::KubernetesOptions;
use crate::state::KubernetesBackend;

/// A connection to a cluster, for one scope in one namespace.
///
/// Clones share the connection. Dropping the last clone and the last handle of a container closes
/// it.
#[derive(Clone)]
pub struct KubernetesRuntime {
    inner: Connected<KubernetesBackend>,
}

impl fmt::Debug for KubernetesRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesRuntime")
            .field("namespace", &self.backend().client.namespace())
            .field("version", &self.backend().server.version)
            .field("scope", &self.backend().options.scope)
            .finish_non_exhaustive()
    }
}

impl KubernetesRuntime {
    fn new(backend: KubernetesBackend) -> Self {
        Self { inner: Connected::new(Arc::new(backend)) }
    }

    fn backend(&self) -> &KubernetesBackend {
        self.inner.inner()
    }

    /// Connects to a cluster with the configuration of kubectl, and requests the version of its API
    /// server.
    ///
    /// # Errors
    /// `InvalidArgument` if the options or the kubeconfig cannot be used; `Unavailable` if
    /// there is no kubeconfig, or the server is unreachable or not an API server; `Timeout` if it
    /// does not respond; `Unauthenticated` if it refuses the credentials; `Unsupported` if it is
    /// older than 1.20.
    pub async fn connect(options: KubernetesOptions) -> Result<Self> {
        Ok(Self::new(connect(options).await?))
    }

    /// Connects with an existing client. The kubeconfig and the context of the options are ignored.
    ///
    /// The client owns the connections: they are neither pinged nor discarded if one of them is
    /// lost, so that a vanished server is detected later, and they end with the executor on which
    /// the client was created.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn with_client(client: kube::Client, options: KubernetesOptions) -> Result<Self> {
        Ok(Self::new(connect_with(client, options).await?))
    }

    /// Returns the number of requests that this connection has sent to the API server, retries
    /// included.
    #[must_use]
    pub fn requests_sent(&self) -> u64 {
        self.backend().client.sent()
    }

    /// Returns the namespace of the connection.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.backend().client.namespace()
    }
}

delegate_runtime!(KubernetesRuntime);
