//! The backend: a connection to a cluster.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runtime_core::{Capabilities, Error, ErrorKind, Operation, Result, ResultExt as _};
use runtime_support::backend::{Context, closed};
use tokio::time::Instant;

use super::pods::{Entry, Pods};
use super::samples::Samples;
use crate::client::Client;
use crate::error::BACKEND;
use crate::model::capabilities::Server;
use crate::model::pod::gate::StartGate;
use crate::options::KubernetesOptions;

/// A connection to a cluster, and its state between calls.
#[derive(Debug)]
pub(crate) struct KubernetesBackend {
    pub(crate) context: Context,
    pub(crate) client: Client,
    pub(crate) pods: Pods,
    pub(crate) options: KubernetesOptions,
    pub(crate) server: Server,
    /// The last measurements, for values that are computed from two.
    pub(crate) samples: Samples,
    /// The host ports that creates in progress have drawn.
    pub(crate) drawn_ports: Mutex<BTreeSet<u16>>,
    /// The container engine of the node that this connection is bound to, if it was given.
    #[cfg(feature = "cri")]
    pub(crate) engine: Option<runtime_cri::NodeEngine>,
    /// Whether the cluster has dropped the scheduling gate of a pod.
    gates_dropped: AtomicBool,
    /// Whether a policy of the cluster has refused the image of a stop.
    pub(crate) stop_image_refused: AtomicBool,
}

impl KubernetesBackend {
    pub(crate) fn new(
        client: Client,
        options: KubernetesOptions,
        server: Server,
        capabilities: Capabilities,
    ) -> Self {
        let scope = options.scope.clone();
        Self {
            pods: Pods::new(client.clone(), &scope),
            context: Context::new(scope, options.deadlines.clone(), capabilities),
            client,
            options,
            server,
            samples: Samples::default(),
            drawn_ports: Mutex::default(),
            #[cfg(feature = "cri")]
            engine: None,
            gates_dropped: AtomicBool::new(false),
            stop_image_refused: AtomicBool::new(false),
        }
    }

    /// Ends the watch and closes the connections.
    pub(crate) fn close(&self) {
        self.pods.close();
        self.client.close();
        #[cfg(feature = "cri")]
        if let Some(engine) = &self.engine {
            engine.close();
        }
    }

    /// Returns the gate of a new pod.
    pub(crate) fn start_gate(&self) -> StartGate {
        let has_gates = self.server.has_gates() && !self.gates_dropped.load(Ordering::Relaxed);
        if has_gates { StartGate::SchedulingGate } else { StartGate::Affinity }
    }

    /// Remembers that the cluster drops gates.
    pub(crate) fn gates_are_dropped(&self) {
        tracing::debug!("the cluster drops scheduling gates, so pods are gated by an affinity");
        self.gates_dropped.store(true, Ordering::Relaxed);
    }

    /// Completes when the runtime is closed, with the error for a stream.
    pub(crate) fn closed(
        &self,
        operation: Operation,
    ) -> impl Future<Output = Error> + Send + use<> {
        let token = self.context.closed.clone();
        async move {
            token.cancelled().await;
            closed().during(operation).on(BACKEND)
        }
    }

    /// Runs a part of an operation under a deadline of its own, until the runtime is closed.
    ///
    /// # Errors
    /// Those of `work`; `InvalidState` if the runtime is closed; `Timeout`, or the reason for it if
    /// that is known.
    pub(crate) async fn with_deadline<T>(
        &self,
        operation: Operation,
        deadline: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        let work = runtime_support::within(operation, deadline, work);
        let done = self.context.unless_closed(work).await.during(operation);
        done.map_err(|error| self.explain_timeout(begun, error)).on(BACKEND)
    }

    /// Runs a part of an operation that only reads, under the deadline of a query.
    pub(crate) async fn query<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.with_deadline(operation, self.context.deadlines.query, work).await
    }

    /// Replaces a timeout by its reason, if the server is unreachable or has throttled this client
    /// since `begun`.
    pub(crate) fn explain_timeout(&self, begun: Instant, error: Error) -> Error {
        if error.kind() != ErrorKind::Timeout {
            return error;
        }
        let why = self.pods.unavailable_reason().or_else(|| self.client.throttled_since(begun));
        match (why, error.operation()) {
            (Some(why), Some(operation)) => why.during(operation),
            (Some(why), None) => why,
            (None, _) => error,
        }
    }

    /// Returns a pod of the watch, which is started by the first call.
    pub(crate) async fn entry(&self, uid: &str, name: &str) -> Result<Arc<Entry>> {
        self.pods.live().await?;
        if let Some(entry) = self.pods.entry(uid) {
            return Ok(entry);
        }
        // Another process may have created it a moment ago.
        let pod = self.client.pod(name).await?;
        if pod.metadata.uid == uid {
            self.pods.take(pod);
        }
        self.pods.entry(uid).ok_or_else(|| Error::new(ErrorKind::NotFound))
    }
}
