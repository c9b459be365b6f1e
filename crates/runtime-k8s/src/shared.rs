//! What a runtime and all of its containers share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runtime_core::{Capabilities, Error, ErrorKind, Operation, Result, ResultExt as _};
use runtime_support::HalfMade;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::BACKEND;
use crate::capabilities::Server;
use crate::client::Client;
use crate::connect::KubernetesOptions;
use crate::hold::Hold;
use crate::pods::{Entry, Pods};
use crate::stats::Samples;

/// The connection, and what is known of the cluster at its other end.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) pods: Pods,
    pub(crate) options: KubernetesOptions,
    pub(crate) server: Server,
    pub(crate) capabilities: Capabilities,
    /// The last measurements, for what is counted between two.
    pub(crate) samples: Samples,
    /// The ports of creates that are under way.
    pub(crate) drawn_ports: Mutex<BTreeSet<u16>>,
    /// The engine of the one node, where this connection may speak to it.
    #[cfg(feature = "cri")]
    pub(crate) engine: Option<runtime_cri::NodeEngine>,
    /// Whether the cluster was seen to drop the gate of a pod.
    gates_dropped: AtomicBool,
    /// Whether the cluster was seen to refuse the image of a stop.
    pub(crate) stop_image_refused: AtomicBool,
    /// The creates that nobody waits for any more, and their undoing.
    pub(crate) half_made: HalfMade,
    /// Set by `close`.
    pub(crate) closed: CancellationToken,
}

impl Shared {
    pub(crate) fn new(
        client: Client,
        options: KubernetesOptions,
        server: Server,
        capabilities: Capabilities,
    ) -> Self {
        Self {
            pods: Pods::new(client.clone(), &options.scope),
            client,
            options,
            server,
            capabilities,
            samples: Samples::default(),
            drawn_ports: Mutex::default(),
            #[cfg(feature = "cri")]
            engine: None,
            gates_dropped: AtomicBool::new(false),
            stop_image_refused: AtomicBool::new(false),
            half_made: HalfMade::default(),
            closed: CancellationToken::new(),
        }
    }

    /// Ends all that is under way, and refuses what comes. What is half made is undone before the
    /// connection goes.
    pub(crate) async fn close(&self) {
        self.closed.cancel();
        self.pods.close();
        self.half_made.close(self.options.deadlines.remove).await;
        self.client.close();
        #[cfg(feature = "cri")]
        if let Some(engine) = &self.engine {
            engine.close();
        }
    }

    /// Returns the hold that a new pod gets.
    pub(crate) fn hold(&self) -> Hold {
        let has_gates = self.server.has_gates() && !self.gates_dropped.load(Ordering::Relaxed);
        if has_gates { Hold::Gate } else { Hold::Affinity }
    }

    /// Remembers that the cluster drops gates.
    pub(crate) fn gates_are_dropped(&self) {
        tracing::debug!("the cluster drops scheduling gates: pods are held by an affinity");
        self.gates_dropped.store(true, Ordering::Relaxed);
    }

    /// Completes when the runtime is closed.
    pub(crate) fn closed(&self) -> impl Future<Output = Error> + Send + use<> {
        let closed = self.closed.clone();
        async move {
            closed.cancelled().await;
            is_closed()
        }
    }

    /// Does `work` until the runtime is closed.
    pub(crate) async fn unless_closed<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let done = async {
            if self.closed.is_cancelled() {
                return Err(self.closed().await);
            }
            // What is ready counts for more: a container that was made is somebody's.
            tokio::select! {
                biased;
                done = work => done,
                closed = self.closed() => Err(closed),
            }
        };
        done.await.during(operation).on(BACKEND)
    }

    /// Does `work`, but no longer than `deadline`.
    pub(crate) async fn within<T>(
        &self,
        operation: Operation,
        deadline: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        let work = runtime_support::within(operation, deadline, work);
        let done = self.unless_closed(operation, work).await;
        match done {
            // If the server is known to be away, or to be too busy, that is the reason.
            Err(error) if error.kind() == ErrorKind::Timeout => {
                let why = self.pods.why_away().or_else(|| self.client.throttled_since(begun));
                match why {
                    Some(why) => Err(why.during(operation).on(BACKEND)),
                    None => Err(error),
                }
            }
            done => done,
        }
    }

    /// A question, within the deadline of questions.
    pub(crate) async fn query<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.within(operation, self.options.deadlines.query, work).await
    }

    /// Returns a pod of the watch, which begins with this if nothing has asked it yet.
    pub(crate) async fn entry(&self, uid: &str, name: &str) -> Result<Arc<Entry>> {
        self.pods.live().await?;
        if let Some(entry) = self.pods.entry(uid) {
            return Ok(entry);
        }
        // It may have been made by another process a moment ago.
        let pod = self.client.pod(name).await?;
        if pod.metadata.uid == uid {
            self.pods.take(pod);
        }
        self.pods.entry(uid).ok_or_else(|| Error::new(ErrorKind::NotFound))
    }
}

/// The error of every call after `close`.
pub(crate) fn is_closed() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the runtime was closed").on(BACKEND)
}
