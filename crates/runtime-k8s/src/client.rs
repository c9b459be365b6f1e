//! The requests to the API server.
//!
//! kube brings the connection, TLS and the caller's identity. The requests themselves are put
//! together here, because the answers are read into types of our own, see `model/api.rs`.

mod answer;
pub(crate) mod authorization;
pub(crate) mod belongings;
pub(crate) mod environment;
pub(crate) mod kubeconfig;
pub(crate) mod lines;
pub(crate) mod open;
pub(crate) mod proxy;
mod refusal;
pub(crate) mod session;
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
use self::session::Carrier;
use self::session::keepalive::Heartbeat;
use self::warnings::Warnings;
use crate::client::transport::connections::{Clients, Link, OpenBody};
use crate::client::transport::http2;
use crate::client::transport::liveness::Heard;
use crate::client::watch::Watch;
use crate::error;
use crate::json;
use crate::model::api::{self, ClusterEvent, List, Meta, Node, Pod, ServerVersion};
use crate::options::SESSION_PING_INTERVAL;

/// Where a server says who it is.
const VERSION: &str = "/version";

/// Where a server has the metrics API.
const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// A page of a list: as kubectl has it.
const PAGE: &str = "500";

/// The API server, for one namespace.
#[derive(Clone)]
pub(crate) struct Client {
    link: Arc<Link>,
    namespace: Arc<str>,
    sent: Arc<AtomicU64>,
    /// Whether the server has said who it is.
    knows_version: Arc<AtomicBool>,
    /// What sessions are carried by, once that is known.
    carrier: Arc<OnceLock<Carrier>>,
    /// The limit of a request that only reads.
    read_limit: Duration,
    heartbeat: Heartbeat,
    /// The warnings of the server that were reported.
    warnings: Arc<Warnings>,
    /// The last refusal of a server that was too busy.
    throttled: Throttled,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    path: String,
    query: String,
    content: Option<(&'static str, Bytes)>,
    opens_watch: bool,
}

impl Call {
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
            Error::internal("the request cannot be written as JSON").with_source(source)
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

/// How long an answer may be.
#[derive(Debug, Clone, Copy)]
enum Length {
    Short,
    /// So long that the way it comes counts.
    Long,
}

/// What a compare-and-set came to.
#[derive(Debug)]
pub(crate) enum Patched {
    /// It is done, and this is the pod now.
    Done(Box<Pod>),
    /// The pod was not in the state that the patch was for, or so it seems: this is what the server
    /// said.
    Other(Error),
}

/// Tells a patch that came too late from one that the server will not take: that names no field
/// either where a webhook of the cluster refuses it.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// The version that the pod had after the last refusal.
    version: Option<String>,
}

impl Refused {
    /// A patch was refused, and this is the pod after that.
    ///
    /// # Errors
    /// What the server said, when the patch was made for this very version.
    pub(crate) fn again(&mut self, pod: &Pod, error: Error) -> Result<()> {
        let version = pod.metadata.resource_version.clone();
        if self.version.as_ref() == Some(&version) {
            return Err(error);
        }
        self.version = Some(version);
        Ok(())
    }
}

/// What a delete came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// The object is gone.
    Gone,
    /// It goes when its node has ended its processes.
    Going,
}

impl Client {
    pub(crate) fn new(clients: OnExecutor<Clients>, namespace: &str) -> Self {
        Self {
            link: Arc::new(Link::new(clients)),
            namespace: namespace.into(),
            sent: Arc::default(),
            knows_version: Arc::default(),
            carrier: Arc::default(),
            read_limit: answer::READ_LIMIT,
            heartbeat: Heartbeat::every(SESSION_PING_INTERVAL),
            warnings: Arc::default(),
            throttled: Throttled::default(),
        }
    }

    /// Sets how often sessions are pinged.
    pub(crate) fn with_session_pings(mut self, interval: Duration) -> Self {
        self.heartbeat = Heartbeat::every(interval);
        self
    }

    /// Sets the limit of a request that only reads.
    pub(crate) fn with_read_limit(mut self, limit: Duration) -> Self {
        self.read_limit = limit;
        self
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How many requests were sent, repeated ones counted each time.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Closes every connection, those of bodies too that somebody still holds. What is asked from
    /// now on is refused.
    pub(crate) fn close(&self) {
        self.link.close();
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Body>> {
        let client = self.link.clients()?.all;
        self.send_by(&client, request).await.map_err(error::from_client)
    }

    async fn send_by(
        &self,
        client: &kube::Client,
        request: Request<Body>,
    ) -> std::result::Result<Response<Body>, kube::Error> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let answer = client.send(request).await;
        if answer.as_ref().is_err_and(is_loss) {
            self.link.lost();
        }
        if let Ok(answer) = &answer {
            self.warnings.report(answer.headers());
        }
        answer
    }

    /// Sends a request whose answer may be long.
    async fn send_for_long(&self, call: &Call) -> Result<Response<Body>> {
        if let Some(long) = self.link.clients()?.long {
            match self.send_by(&long, call.request()?).await {
                Err(error) if http2::is_not_spoken(&error) => {
                    tracing::debug!("the server speaks no HTTP/2: logs come as all else");
                    self.link.forget_long();
                }
                answer => return answer.map_err(error::from_client),
            }
        }
        self.send(call.request()?).await
    }

    /// Sends a request and gives the answer once its head is there and is no failure.
    ///
    /// A server that has too much to do says when to come again, and has done nothing: so any
    /// request is repeated then. The caller's deadline is what ends that.
    async fn open(&self, call: Call, length: Length) -> Result<Response<Body>> {
        let mut attempts = Attempts::default();
        loop {
            let answer = match length {
                Length::Short => self.send(call.request()?).await?,
                Length::Long => self.send_for_long(&call).await?,
            };
            if answer.status().is_success() {
                return Ok(answer);
            }
            self.refused(answer, &mut attempts).await?;
        }
    }

    /// Sends a request and reads the JSON of the answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        json::read(&self.bytes(call).await?)
    }

    /// Who is there.
    pub(crate) async fn version(&self) -> Result<ServerVersion> {
        let version = self.json(Call::get(VERSION)).await?;
        self.knows_version.store(true, Ordering::Relaxed);
        Ok(version)
    }

    /// What the metrics API has of the pods that a selector selects.
    pub(crate) fn metrics(&self, selector: &str) -> Call {
        Call::get(self.path(METRICS, "pods")).query("labelSelector", selector)
    }

    /// Whether the server has the metrics API, and the server behind it answers.
    ///
    /// # Errors
    /// `PermissionDenied` when this caller may not read it.
    pub(crate) async fn has_metrics(&self, selector: &str) -> Result<bool> {
        self.answered(self.read_limit, async {
            // What a server does not have at all it forbids, too.
            let answer = self.send(Call::get(METRICS).request()?).await?;
            if !answer.status().is_success() {
                return Ok(false);
            }
            let answer = self.send(self.metrics(selector).query("limit", "1").request()?).await?;
            match answer.status() {
                StatusCode::FORBIDDEN => Err(self.refusal(answer).await),
                status => Ok(status.is_success()),
            }
        })
        .await
    }

    fn pods(&self) -> String {
        self.path("/api/v1", "pods")
    }

    /// The path of a kind of things in the namespace.
    fn path(&self, api: &str, kind: &str) -> String {
        format!("{api}/namespaces/{}/{kind}", self.namespace)
    }

    pub(crate) async fn pod(&self, name: &str) -> Result<Pod> {
        self.json(Call::get(format!("{}/{name}", self.pods()))).await
    }

    /// All pods that a selector selects, and the version of the list.
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
                let mut call =
                    Call::get(path).query("labelSelector", selector).query("limit", PAGE);
                let first = next.is_none();
                if let Some(next) = &next {
                    call = call.query("continue", next);
                }
                let page =
                    self.bytes(call).await.and_then(|page| json::readable(api::read_list(&page)));
                let page: List<T> = match page {
                    // The rest of a list is kept for some minutes only.
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

    /// Opens a watch of the pods that a selector selects, from a version on.
    ///
    /// Over HTTP/2 the connection is pinged. Elsewhere only the lines show that a watch is alive, so
    /// it is short: a server sends a bookmark two seconds before its end, and it is opened again over
    /// a connection that works.
    pub(crate) async fn watch_pods(&self, selector: &str, version: &str) -> Result<Watch> {
        let call = |seconds: &str| {
            Call::get(self.pods())
                .query("watch", "true")
                .query("allowWatchBookmarks", "true")
                .query("timeoutSeconds", seconds)
                .query("labelSelector", selector)
                .query("resourceVersion", version)
        };
        self.answered(self.watch_limit(), async {
            if self.link.clients()?.long.is_some() {
                let call = call(watch::PINGED_SECONDS).opens_watch();
                let answer = self.open(call, Length::Long).await?;
                let heard = answer.extensions().get::<Heard>().cloned();
                let body = self.link.hold(answer.into_body());
                // Without, the server has turned out to speak no HTTP/2.
                return Ok(match heard {
                    Some(heard) => Watch::pinged(body, heard),
                    None => Watch::plain(body),
                });
            }
            let answer = self.open(call(watch::PLAIN_SECONDS), Length::Short).await?;
            Ok(Watch::plain(self.link.hold(answer.into_body())))
        })
        .await
    }

    /// Creates a pod. Returns it as the server has it, and the whole answer, in which are fields that
    /// `Pod` does not have.
    pub(crate) async fn create_pod(&self, pod: &impl Serialize) -> Result<(Pod, Bytes)> {
        let answer = self.bytes(Call::new(Method::POST, self.pods()).json(pod)?).await?;
        Ok((json::read(&answer)?, answer))
    }

    /// Changes a pod if it is as the `test`s of the patch say, all of it or nothing.
    pub(crate) async fn patch_pod(&self, name: &str, patch: &[Value]) -> Result<Patched> {
        let call = Call::new(Method::PATCH, format!("{}/{name}", self.pods()))
            .content("application/json-patch+json", &patch)?;
        match self.json(call).await {
            Ok(pod) => Ok(Patched::Done(pod)),
            // A `test` that fails is 422 like a bad pod, but names no field.
            Err(error) if error.kind() == ErrorKind::InvalidArgument && error.field().is_none() => {
                Ok(Patched::Other(error))
            }
            // The pod changed while the server applied the patch.
            Err(error) if error.kind() == ErrorKind::InvalidState => Ok(Patched::Other(error)),
            Err(error) => Err(error),
        }
    }

    /// Deletes the pod of this name if it is the one with this UID.
    pub(crate) async fn delete_pod(&self, name: &str, uid: &str, grace: u64) -> Result<Deleted> {
        let options = serde_json::json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": grace,
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        });
        let call = Call::new(Method::DELETE, format!("{}/{name}", self.pods())).json(&options)?;
        match self.json::<Pod>(call).await {
            // The server answers with the pod: as it went, or on its way with a grace.
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

    /// Creates a thing of another kind.
    pub(crate) async fn create(&self, api: &str, kind: &str, thing: &impl Serialize) -> Result<()> {
        let call = Call::new(Method::POST, self.path(api, kind)).json(thing)?;
        self.bytes(call).await.map(drop)
    }

    /// Deletes a thing of another kind; one that is gone already is no error.
    pub(crate) async fn delete(&self, api: &str, kind: &str, name: &str) -> Result<()> {
        let path = format!("{}/{name}", self.path(api, kind));
        match self.bytes(Call::new(Method::DELETE, path)).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the events that the cluster recorded about a pod, in the order of their times.
    pub(crate) async fn events_of(&self, pod: &Meta) -> Result<Vec<ClusterEvent>> {
        let call = Call::get(self.path("/api/v1", "events"))
            .query("fieldSelector", &format!("involvedObject.name={}", pod.name))
            .query("limit", PAGE);
        let events: List<ClusterEvent> = json::readable(api::read_list(&self.bytes(call).await?))?;
        let mut events = events.items;
        events.retain(|event| event.is_about(pod));
        // Stable: events without a time stay where they are.
        events.sort_by_key(ClusterEvent::last);
        Ok(events)
    }

    /// A node.
    pub(crate) async fn node(&self, name: &str) -> Result<Node> {
        self.json(Call::get(format!("/api/v1/nodes/{name}"))).await
    }

    /// Opens the log of a pod; `query` says what of it.
    pub(crate) async fn open_log(&self, name: &str, query: &[(&str, String)]) -> Result<OpenBody> {
        let mut call = Call::get(format!("{}/{name}/log", self.pods()));
        for (name, value) in query {
            call = call.query(name, value);
        }
        let limit = self.limit_of(&call);
        let answer = self.answered(limit, self.open(call, Length::Long)).await?;
        let is_pinged = answer.extensions().get::<Heard>().is_some();
        let body = self.link.hold(answer.into_body());
        let follows = query.iter().any(|(name, value)| *name == "follow" && value == "true");
        // A follower may be silent for as long as its connection shows that it is alive.
        Ok(if follows && is_pinged { body } else { body.with_silence_limit(answer::LOG_SILENCE) })
    }
}

/// Whether an error is one of a connection. A login that cannot be had is not.
fn is_loss(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_))
        && !http2::is_not_spoken(error)
}

#[cfg(test)]
pub(crate) mod tests;
