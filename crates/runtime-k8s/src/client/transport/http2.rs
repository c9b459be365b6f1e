//! Long responses over HTTP/2, each over a connection of its own.
//!
//! kube uses HTTP/1.1, with which an API server alternates between writing to its client and
//! reading from the node. With HTTP/2 it does both concurrently. kubectl uses HTTP/2.
//!
//! Idle connections are reused for later responses but never shared: a server limits the streams of
//! a connection, and a slow reader would delay all others.
//!
//! The watch of the pods is a long response, too. Its connection is new and is not reused
//! afterwards. The responses to its pings show that no earlier line is missing.

use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use runtime_core::Result;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tower::ServiceBuilder;
use tower_service::Service;

use crate::client::kubeconfig::{Authorized, Settings};
use crate::client::proxy::Connector;
use crate::client::transport::coalesce::CoalescingStream;
use crate::client::transport::dial;
use crate::client::transport::liveness::{Liveness, LivenessStream};
use crate::client::transport::pool::{Generation, IDLE_LIMIT};
use crate::error;

/// Bandwidth that the flow-control window is sized for, in bytes a second, and the limits of the
/// window.
///
/// A larger window is slower. A node writes a log line by line, and an API server with free window
/// forwards each line in a frame of its own. If the window is full, it forwards all lines that have
/// arrived in the meantime in one frame.
const BANDWIDTH: f64 = (64 << 20) as f64;
const WINDOW_RANGE: RangeInclusive<f64> = (64 << 10) as f64..=(1 << 20) as f64;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between the limits")]
fn window(round_trip: Duration) -> u32 {
    (round_trip.as_secs_f64() * BANDWIDTH).clamp(*WINDOW_RANGE.start(), *WINDOW_RANGE.end()) as u32
}

/// Name of HTTP/2 in ALPN.
const ALPN_HTTP2: &[u8] = b"h2";

/// Maximum number of idle connections.
const IDLE_CONNECTIONS_MAX: usize = 8;

/// Interval of the pings of an idle connection, and the timeout of a response.
#[derive(Debug, Clone, Copy)]
struct Pings {
    interval: Duration,
    timeout: Duration,
}

/// Pings keep the connection of a silent follower in the tables of load balancers, which evict it
/// after some tens of seconds. The follower is reopened if its server has vanished.
const LOG_PINGS: Pings =
    Pings { interval: Duration::from_secs(5), timeout: Duration::from_secs(15) };

/// The state of the watch is used only while its connection is alive, so the interval is a fraction
/// of the time that `state/pods/freshness.rs` allows.
const WATCH_PINGS: Pings =
    Pings { interval: Duration::from_secs(2), timeout: Duration::from_secs(8) };

/// Extension of the request that opens a watch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpensWatch;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Error if the server, or a proxy in front of it, does not support HTTP/2.
#[derive(Debug)]
struct NotSpoken;

impl std::fmt::Display for NotSpoken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server does not support HTTP/2")
    }
}

impl std::error::Error for NotSpoken {}

/// Returns whether a request failed only because the server does not support HTTP/2.
pub(crate) fn is_unsupported(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(source) if source.is::<NotSpoken>())
}

/// Returns a client that uses only HTTP/2. `None` if the server has no TLS, which negotiates the
/// protocol.
pub(crate) fn client(settings: &Settings, generation: Generation) -> Result<Option<kube::Client>> {
    client_with(settings, generation, LOG_PINGS, WATCH_PINGS)
}

fn client_with(
    settings: &Settings,
    generation: Generation,
    log_pings: Pings,
    watch_pings: Pings,
) -> Result<Option<kube::Client>> {
    let (Some(server_name), Some(tls)) = (settings.server_name()?, &settings.tls) else {
        return Ok(None);
    };
    let mut tls = ClientConfig::clone(tls);
    tls.alpn_protocols = vec![ALPN_HTTP2.to_vec(), b"http/1.1".to_vec()];
    let tls = TlsConnector::from(Arc::new(tls));
    let config = &settings.config;
    let connections = Connections {
        connector: dial::connector(settings).without_delay(),
        tls,
        server_name,
        limit: config.connect_timeout,
        log_pings,
        watch_pings,
        generation,
        idle: Arc::default(),
        shortest: Arc::default(),
    };
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(config.extra_headers_layer().map_err(error::from_client)?)
        .service(Authorized::new(connections, settings.credentials.clone()));
    Ok(Some(ClientBuilder::new(service, &config.default_namespace).build()))
}

type Sender = SendRequest<Body>;

/// Returns the window of a connection whose stream has this window.
///
/// h2 closes a connection on which too many small frames are buffered: it counts up to 256 bytes of
/// overhead for each, and allows half of this window for all of them. A log of empty lines has
/// frames of one byte.
fn room(window: u32) -> u32 {
    window.saturating_mul(2 * 256).min((1 << 31) - 1)
}

/// The idle connections.
#[derive(Debug, Default)]
struct Idle {
    generation: u64,
    connections: Vec<IdleConnection>,
}

#[derive(Debug)]
struct IdleConnection {
    sender: Sender,
    liveness: Liveness,
    since: Instant,
}

impl Idle {
    /// Drops connections that are closed, too old or of an earlier generation.
    fn clean(&mut self, generation: u64) {
        if self.generation != generation {
            self.generation = generation;
            self.connections.clear();
        }
        self.connections
            .retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE_LIMIT);
    }

    fn take(&mut self, generation: u64) -> Option<(Sender, Liveness)> {
        self.clean(generation);
        self.connections.pop().map(|idle| (idle.sender, idle.liveness))
    }

    /// Keeps a connection whose request was sent in `generation`.
    fn keep(&mut self, sender: Sender, liveness: Liveness, generation: u64, current: u64) {
        self.clean(current);
        if generation == current && self.connections.len() < IDLE_CONNECTIONS_MAX {
            self.connections.push(IdleConnection { sender, liveness, since: Instant::now() });
        }
    }
}

fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends each request on a connection of its own.
#[derive(Clone)]
struct Connections {
    connector: Connector,
    tls: TlsConnector,
    server_name: ServerName<'static>,
    /// How long a connection may take to open.
    limit: Option<Duration>,
    log_pings: Pings,
    watch_pings: Pings,
    generation: Generation,
    idle: Arc<Mutex<Idle>>,
    shortest: Arc<RoundTrip>,
}

/// Minimum observed round-trip time, in nanoseconds.
#[derive(Debug)]
struct RoundTrip(AtomicU64);

impl RoundTrip {
    fn seen(&self, took: Duration) -> Duration {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.0.fetch_min(took, Ordering::Relaxed).min(took))
    }
}

impl Default for RoundTrip {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

/// Returns whether both ends of a connection are on this host. The time that it takes to open is
/// then no round-trip time.
fn is_local(tcp: &TcpStream) -> bool {
    matches!((tcp.local_addr(), tcp.peer_addr()), (Ok(ours), Ok(theirs)) if ours.ip() == theirs.ip())
}

impl Service<Request<Body>> for Connections {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = BoxFuture<'static, std::result::Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

impl Connections {
    async fn send(
        self,
        mut request: Request<Body>,
    ) -> std::result::Result<Response<Answer>, BoxError> {
        if request.extensions().get::<OpensWatch>().is_some() {
            let (mut sender, liveness) = self.open(request.uri().clone(), self.watch_pings).await?;
            let mut response = sender.send_request(request).await?;
            response.extensions_mut().insert(liveness);
            return Ok(response.map(|body| Answer { body, sender: Some(sender), home: None }));
        }
        let generation = self.generation.current();
        loop {
            let kept = lock(&self.idle).take(generation);
            let is_kept = kept.is_some();
            let (mut sender, liveness) = match kept {
                Some(kept) => kept,
                None => self.open(request.uri().clone(), self.log_pings).await?,
            };
            match sender.try_send_request(request).await {
                Ok(mut response) => {
                    response.extensions_mut().insert(liveness.clone());
                    let home = Home {
                        idle: Arc::downgrade(&self.idle),
                        sent_in: generation,
                        generation: self.generation,
                        liveness,
                    };
                    let (sender, home) = (Some(sender), Some(home));
                    return Ok(response.map(|body| Answer { body, sender, home }));
                }
                // The server has closed the idle connection and has not received the request.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    _ => return Err(failed.into_error().into()),
                },
            }
        }
    }

    /// Opens a connection within its timeout, TLS and HTTP/2 included.
    async fn open(
        &self,
        uri: Uri,
        pings: Pings,
    ) -> std::result::Result<(Sender, Liveness), BoxError> {
        match self.limit {
            Some(limit) => tokio::time::timeout(limit, self.connect(uri, pings)).await?,
            None => self.connect(uri, pings).await,
        }
    }

    async fn connect(
        &self,
        uri: Uri,
        pings: Pings,
    ) -> std::result::Result<(Sender, Liveness), BoxError> {
        let begun = Instant::now();
        let tcp = self.connector.clone().open(uri).await?;
        let is_local = tcp.direct().is_some_and(is_local);
        let took = if is_local { Duration::ZERO } else { begun.elapsed() };
        let window = window(self.shortest.seen(took));
        let tcp = LivenessStream::new(tcp);
        let liveness = tcp.liveness();
        let stream = self.tls.connect(self.server_name.clone(), CoalescingStream::new(tcp)).await?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_HTTP2) {
            return Err(NotSpoken.into());
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(window)
            .initial_connection_window_size(room(window))
            .keep_alive_interval(pings.interval)
            .keep_alive_timeout(pings.timeout)
            .handshake(TokioIo::new(stream))
            .await?;
        // The task ends with the sender and the last response.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection has ended");
            }
        });
        Ok((sender, liveness))
    }
}

/// The connection of a response, which becomes idle when the response was read.
struct Home {
    idle: Weak<Mutex<Idle>>,
    /// The generation in which its request was sent.
    sent_in: u64,
    generation: Generation,
    liveness: Liveness,
}

impl Home {
    fn take(self, sender: Sender) {
        if let Some(idle) = self.idle.upgrade() {
            let current = self.generation.current();
            lock(&idle).keep(sender, self.liveness, self.sent_in, current);
        }
    }
}

/// The body of a response. At its end the connection becomes idle. If the body is dropped before,
/// the connection is closed.
struct Answer {
    body: Incoming,
    sender: Option<Sender>,
    home: Option<Home>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(_)) => {}
            Some(Err(_)) => self.sender = None,
            None => {
                if let (Some(sender), Some(home)) = (self.sender.take(), self.home.take()) {
                    home.take(sender);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // The end is reported after the connection has become idle.
        self.sender.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
