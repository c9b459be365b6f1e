//! Requests to the API server.
//!
//! kube provides the layers for TLS and credentials. The requests are built here, because responses
//! are deserialized into types of this crate, see `model/api.rs`.

pub(crate) mod authorization;
pub(crate) mod belongings;
pub(crate) mod environment;
pub(crate) mod kubeconfig;
pub(crate) mod lines;
pub(crate) mod open;
pub(crate) mod proxy;
mod refusal;
pub(crate) mod session;
mod timeout;
pub(crate) mod transport;
mod warnings;
pub(crate) mod watch;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use runtime_core::{Error, ErrorKind, Result};
use runtime_support::OnExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::refusal::{Attempts, Throttled};
use self::session::SessionProtocol;
use self::session::keepalive::Keepalive;
use self::warnings::Warnings;
use crate::client::transport::connections::{Clients, Connections, OpenBody};
use crate::client::transport::http2;
use crate::client::transport::liveness::Liveness;
use crate::client::watch::Watch;
use crate::error;
use crate::json;
use crate::model::api::{self, ClusterEvent, List, Meta, Node, Pod, ServerVersion};
use crate::options::SESSION_PING_INTERVAL;

/// Path of the version of a server.
const VERSION_PATH: &str = "/version";

/// Path of the metrics API.
const METRICS_API: &str = "/apis/metrics.k8s.io/v1beta1";

/// Number of items in a page of a list. kubectl uses the same.
const PAGE_SIZE: &str = "500";

/// A client of the API server, for one namespace.
#[derive(Clone)]
pub(crate) struct Client {
    connections: Arc<Connections>,
    namespace: Arc<str>,
    sent: Arc<AtomicU64>,
    /// Whether the server has returned its version.
    knows_version: Arc<AtomicBool>,
    /// The session protocol, after the first session.
    protocol: Arc<OnceLock<SessionProtocol>>,
    /// Timeout of a request that only reads.
    read_timeout: Duration,
    keepalive: Keepalive,
    /// The warnings of the server that were logged.
    warnings: Arc<Warnings>,
    /// The last refusal of a server that was too busy.
    throttled: Throttled,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// A request to the API server, which can be sent more than once.
#[derive(Debug, Clone)]
pub(crate) struct ApiRequest {
    method: Method,
    path: String,
    query: String,
    content: Option<(&'static str, Bytes)>,
    opens_watch: bool,
}

impl ApiRequest {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        let query = String::new();
        Self { method, path: path.into(), query, content: None, opens_watch: false }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        let mut query = form_urlencoded::Serializer::new(self.query);
        query.append_pair(name, value);
        self.query = query.finish();
        self
    }

    /// Requires a new connection that is pinged often.
    const fn opens_watch(mut self) -> Self {
        self.opens_watch = true;
        self
    }

    fn json(self, content: &impl Serialize) -> Result<Self> {
        self.content("application/json", content)
    }

    fn content(mut self, kind: &'static str, content: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(content).map_err(|source| {
            Error::internal("failed to serialize the request").with_source(source)
        })?;
        self.content = Some((kind, body.into()));
        Ok(self)
    }

    fn uri(&self) -> String {
        let Self { path, query, .. } = self;
        if query.is_empty() { path.clone() } else { format!("{path}?{query}") }
    }

    fn request(&self) -> Result<Request<Body>> {
        let Self { method, content, .. } = self;
        let mut request = Request::builder().method(method).uri(self.uri());
        let mut body = Body::empty();
        if let Some((kind, content)) = content {
            request = request.header(http::header::CONTENT_TYPE, *kind);
            body = Body::from(content.clone());
        }
        if self.opens_watch {
            request = request.extension(http2::OpensWatch);
        }
        request
            .body(body)
            .map_err(|source| Error::internal("the request is malformed").with_source(source))
    }
}

/// Expected length of a response.
#[derive(Debug, Clone, Copy)]
enum Length {
    Short,
    /// Long enough to be sent over an HTTP/2 connection of its own.
    Long,
}

/// Outcome of a patch with tests.
#[derive(Debug)]
pub(crate) enum Patched {
    /// The patch was applied. This is the pod after it.
    Done(Box<Pod>),
    /// The pod was probably not in the state that the patch tests. This is the error of the server.
    Other(Error),
}

/// Distinguishes a patch that was too late from one that the server refuses in any state: the error
/// of a webhook names no field either.
#[derive(Debug, Default)]
pub(crate) struct PatchRetries {
    /// Version of the pod after the last refusal.
    version: Option<String>,
}

impl PatchRetries {
    /// Records that a patch was refused, and the pod after the refusal.
    ///
    /// # Errors
    /// The error of the server, if the patch was built from this version of the pod.
    pub(crate) fn again(&mut self, pod: &Pod, error: Error) -> Result<()> {
        let version = pod.metadata.resource_version.clone();
        if self.version.as_ref() == Some(&version) {
            return Err(error);
        }
        self.version = Some(version);
        Ok(())
    }
}

/// Outcome of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// The object is gone.
    Gone,
    /// The object will be gone when its node has ended its processes.
    Going,
}

impl Client {
    pub(crate) fn new(clients: OnExecutor<Clients>, namespace: &str) -> Self {
        Self {
            connections: Arc::new(Connections::new(clients)),
            namespace: namespace.into(),
            sent: Arc::default(),
            knows_version: Arc::default(),
            protocol: Arc::default(),
            read_timeout: timeout::READ_TIMEOUT,
            keepalive: Keepalive::every(SESSION_PING_INTERVAL),
            warnings: Arc::default(),
            throttled: Throttled::default(),
        }
    }

    /// Sets the interval of the pings of sessions.
    pub(crate) fn with_session_pings(mut self, interval: Duration) -> Self {
        self.keepalive = Keepalive::every(interval);
        self
    }

    /// Sets the timeout of a request that only reads.
    pub(crate) fn with_read_timeout(mut self, limit: Duration) -> Self {
        self.read_timeout = limit;
        self
    }

    /// Returns the namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the number of requests that were sent, retries included.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Closes all connections, also those of bodies that are still being read. Later requests fail.
    pub(crate) fn close(&self) {
        self.connections.close();
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Body>> {
        let client = self.connections.clients()?.all;
        self.send_by(&client, request).await.map_err(error::from_client)
    }

    async fn send_by(
        &self,
        client: &kube::Client,
        request: Request<Body>,
    ) -> std::result::Result<Response<Body>, kube::Error> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let response = client.send(request).await;
        if response.as_ref().is_err_and(is_loss) {
            self.connections.lost();
        }
        if let Ok(response) = &response {
            self.warnings.report(response.headers());
        }
        response
    }

    /// Sends a request whose response may be long.
    async fn send_for_long(&self, call: &ApiRequest) -> Result<Response<Body>> {
        if let Some(long) = self.connections.clients()?.long {
            match self.send_by(&long, call.request()?).await {
                Err(error) if http2::is_unsupported(&error) => {
                    tracing::debug!("the server does not support HTTP/2, so logs use HTTP/1.1");
                    self.connections.disable_long();
                }
                response => return response.map_err(error::from_client),
            }
        }
        self.send(call.request()?).await
    }

    /// Sends a request and returns the response after its head, if the status is not a failure.
    ///
    /// If the server throttles the client, it has not processed the request. Any request is retried
    /// then after the delay that the server requires, until the deadline of the caller.
    async fn open(&self, call: ApiRequest, length: Length) -> Result<Response<Body>> {
        let mut attempts = Attempts::default();
        loop {
            let response = match length {
                Length::Short => self.send(call.request()?).await?,
                Length::Long => self.send_for_long(&call).await?,
            };
            if response.status().is_success() {
                return Ok(response);
            }
            self.refused(response, &mut attempts).await?;
        }
    }

    /// Sends a request and deserializes the JSON of the response.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: ApiRequest) -> Result<T> {
        json::read(&self.bytes(call).await?)
    }

    /// Requests the version of the server.
    pub(crate) async fn version(&self) -> Result<ServerVersion> {
        let version = self.json(ApiRequest::get(VERSION_PATH)).await?;
        self.knows_version.store(true, Ordering::Relaxed);
        Ok(version)
    }

    /// Returns the request for the metrics of the pods that match a selector.
    pub(crate) fn metrics(&self, selector: &str) -> ApiRequest {
        ApiRequest::get(self.path(METRICS_API, "pods")).query("labelSelector", selector)
    }

    /// Returns whether the server has the metrics API, and the metrics server responds.
    ///
    /// # Errors
    /// `PermissionDenied` if the caller may not read metrics.
    pub(crate) async fn has_metrics(&self, selector: &str) -> Result<bool> {
        self.with_timeout(self.read_timeout, async {
            // A server also forbids an API that it does not have.
            let response = self.send(ApiRequest::get(METRICS_API).request()?).await?;
            if !response.status().is_success() {
                return Ok(false);
            }
            let response = self.send(self.metrics(selector).query("limit", "1").request()?).await?;
            match response.status() {
                StatusCode::FORBIDDEN => Err(self.refusal(response).await),
                status => Ok(status.is_success()),
            }
        })
        .await
    }

    fn pods(&self) -> String {
        self.path("/api/v1", "pods")
    }

    /// Returns the path of a resource in the namespace.
    fn path(&self, api: &str, kind: &str) -> String {
        format!("{api}/namespaces/{}/{kind}", self.namespace)
    }

    pub(crate) async fn pod(&self, name: &str) -> Result<Pod> {
        self.json(ApiRequest::get(format!("{}/{name}", self.pods()))).await
    }

    /// Returns all pods that match a selector, and the version of the list.
    pub(crate) async fn list_pods(&self, selector: &str) -> Result<(Vec<Pod>, String)> {
        self.list(&self.pods(), selector).await
    }

    async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        selector: &str,
    ) -> Result<(Vec<T>, String)> {
        'again: loop {
            let mut items = Vec::new();
            let mut next: Option<String> = None;
            loop {
                let mut call = ApiRequest::get(path)
                    .query("labelSelector", selector)
                    .query("limit", PAGE_SIZE);
                let first = next.is_none();
                if let Some(next) = &next {
                    call = call.query("continue", next);
                }
                let page =
                    self.bytes(call).await.and_then(|page| json::readable(api::read_list(&page)));
                let page: List<T> = match page {
                    // A server keeps the rest of a list for some minutes.
                    Err(error) if error.kind() == ErrorKind::Lost && !first => continue 'again,
                    page => page?,
                };
                items.extend(page.items);
                next = page.metadata.next.filter(|next| !next.is_empty());
                if next.is_none() {
                    return Ok((items, page.metadata.resource_version));
                }
            }
        }
    }

    /// Opens a watch of the pods that match a selector, from a version on.
    ///
    /// An HTTP/2 connection is pinged. With HTTP/1.1 only the lines of a watch show that it is
    /// alive, so it is short: a server sends a bookmark two seconds before its end, and the watch
    /// is reopened over a connection that works.
    pub(crate) async fn watch_pods(&self, selector: &str, version: &str) -> Result<Watch> {
        let call = |seconds: &str| {
            ApiRequest::get(self.pods())
                .query("watch", "true")
                .query("allowWatchBookmarks", "true")
                .query("timeoutSeconds", seconds)
                .query("labelSelector", selector)
                .query("resourceVersion", version)
        };
        self.with_timeout(self.watch_timeout(), async {
            if self.connections.clients()?.long.is_some() {
                let call = call(watch::PINGED_SECONDS).opens_watch();
                let response = self.open(call, Length::Long).await?;
                let liveness = response.extensions().get::<Liveness>().cloned();
                let body = self.connections.hold(response.into_body());
                // `None` if the server does not support HTTP/2.
                return Ok(match liveness {
                    Some(liveness) => Watch::pinged(body, liveness),
                    None => Watch::plain(body),
                });
            }
            let response = self.open(call(watch::PLAIN_SECONDS), Length::Short).await?;
            Ok(Watch::plain(self.connections.hold(response.into_body())))
        })
        .await
    }

    /// Creates a pod. Returns the pod of the server and the whole response, which has fields that
    /// `Pod` does not have.
    pub(crate) async fn create_pod(&self, pod: &impl Serialize) -> Result<(Pod, Bytes)> {
        let response = self.bytes(ApiRequest::new(Method::POST, self.pods()).json(pod)?).await?;
        Ok((json::read(&response)?, response))
    }

    /// Applies a patch to a pod atomically, if its `test`s hold.
    pub(crate) async fn patch_pod(&self, name: &str, patch: &[Value]) -> Result<Patched> {
        let call = ApiRequest::new(Method::PATCH, format!("{}/{name}", self.pods()))
            .content("application/json-patch+json", &patch)?;
        match self.json(call).await {
            Ok(pod) => Ok(Patched::Done(pod)),
            // A failed `test` is 422 like an invalid pod, but names no field.
            Err(error) if error.kind() == ErrorKind::InvalidArgument && error.field().is_none() => {
                Ok(Patched::Other(error))
            }
            // The pod changed while the server applied the patch.
            Err(error) if error.kind() == ErrorKind::InvalidState => Ok(Patched::Other(error)),
            Err(error) => Err(error),
        }
    }

    /// Deletes the pod of this name if it has this UID.
    pub(crate) async fn delete_pod(&self, name: &str, uid: &str, grace: u64) -> Result<Deleted> {
        let options = serde_json::json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": grace,
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        });
        let call =
            ApiRequest::new(Method::DELETE, format!("{}/{name}", self.pods())).json(&options)?;
        match self.json::<Pod>(call).await {
            // The server returns the pod: without a grace if it is gone, else with the grace.
            Ok(pod) if pod.metadata.deletion_grace_period_seconds.is_some_and(|s| s > 0) => {
                Ok(Deleted::Going)
            }
            Ok(_) => Ok(Deleted::Gone),
            // Another pod has the name by now.
            Err(error) if error.kind() == ErrorKind::InvalidState => {
                Err(Error::new(ErrorKind::NotFound))
            }
            Err(error) => Err(error),
        }
    }

    /// Creates an object of another kind.
    pub(crate) async fn create(&self, api: &str, kind: &str, thing: &impl Serialize) -> Result<()> {
        let call = ApiRequest::new(Method::POST, self.path(api, kind)).json(thing)?;
        self.bytes(call).await.map(drop)
    }

    /// Deletes an object of another kind. An absent object is not an error.
    pub(crate) async fn delete(&self, api: &str, kind: &str, name: &str) -> Result<()> {
        let path = format!("{}/{name}", self.path(api, kind));
        match self.bytes(ApiRequest::new(Method::DELETE, path)).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the events that the cluster recorded about a pod, in the order of their times.
    pub(crate) async fn events_of(&self, pod: &Meta) -> Result<Vec<ClusterEvent>> {
        let call = ApiRequest::get(self.path("/api/v1", "events"))
            .query("fieldSelector", &format!("involvedObject.name={}", pod.name))
            .query("limit", PAGE_SIZE);
        let events: List<ClusterEvent> = json::readable(api::read_list(&self.bytes(call).await?))?;
        let mut events = events.items;
        events.retain(|event| event.is_about(pod));
        // The sort is stable, so that events without a time keep their order.
        events.sort_by_key(ClusterEvent::last);
        Ok(events)
    }

    /// Returns a node.
    pub(crate) async fn node(&self, name: &str) -> Result<Node> {
        self.json(ApiRequest::get(format!("/api/v1/nodes/{name}"))).await
    }

    /// Opens the log of a pod. `query` has the options of the log.
    pub(crate) async fn open_log(&self, name: &str, query: &[(&str, String)]) -> Result<OpenBody> {
        let mut call = ApiRequest::get(format!("{}/{name}/log", self.pods()));
        for (name, value) in query {
            call = call.query(name, value);
        }
        let limit = self.timeout_of(&call);
        let response = self.with_timeout(limit, self.open(call, Length::Long)).await?;
        let is_pinged = response.extensions().get::<Liveness>().is_some();
        let body = self.connections.hold(response.into_body());
        let follows = query.iter().any(|(name, value)| *name == "follow" && value == "true");
        // A follower may be silent if the pings show that its connection is alive.
        Ok(if follows && is_pinged {
            body
        } else {
            body.with_silence_limit(timeout::LOG_SILENCE_MAX)
        })
    }
}

/// Returns whether an error is one of the connection, and not of the credentials.
fn is_loss(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_))
        && !http2::is_unsupported(error)
}

#[cfg(test)]
pub(crate) mod tests;
