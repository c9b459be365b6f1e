//! Long answers over HTTP/2, a connection for each while it is read.
//!
//! kube speaks HTTP/1.1, in which an API server writes an answer and reads on from the node in
//! turns. In HTTP/2 it does both at once, which is what kubectl has.
//!
//! Connections are kept for the next answer and never shared: a server allows few answers at a time
//! on one, and a reader that is slow would hold up all others.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use runtime_core::{Error, Result};
use tower::ServiceBuilder;
use tower_service::Service;

use crate::error;

/// How much of an answer may be on its way while its reader is busy.
const WINDOW: u32 = 1 << 20;

/// How many connections are kept for later.
const MOST_IDLE: usize = 8;

/// After how long without an answer a connection is looked at, and how long that may take: a
/// follower of a quiet container learns that way that its server has vanished.
const SILENCE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(20);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The server, or what stands before it, speaks no HTTP/2.
#[derive(Debug)]
struct NotSpoken;

impl std::fmt::Display for NotSpoken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server speaks no HTTP/2")
    }
}

impl std::error::Error for NotSpoken {}

/// Whether a request failed for want of HTTP/2 alone.
pub(crate) fn is_not_spoken(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(source) if source.is::<NotSpoken>())
}

/// A client that speaks HTTP/2 alone, with the identity of a configuration. `None` where that
/// leads over a proxy, or is without TLS, in which the protocol is agreed on.
pub(crate) fn client(config: &kube::Config) -> Result<Option<kube::Client>> {
    if config.proxy_url.is_some() || config.cluster_url.scheme() != Some(&Scheme::HTTPS) {
        return Ok(None);
    }
    let tls = config.rustls_client_config().map_err(error::from_client)?;
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().map_err(|source| {
            Error::invalid("kubeconfig", "has no server name in tls-server-name")
                .with_source(source)
        })?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_nodelay(true);
    let connections = Connections {
        connector: builder.enable_all_versions().wrap_connector(connector),
        idle: Arc::default(),
    };
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(error::from_client)?)
        .layer(config.extra_headers_layer().map_err(error::from_client)?)
        .service(connections);
    Ok(Some(ClientBuilder::new(service, &config.default_namespace).build()))
}

type Sender = SendRequest<Body>;

/// The connections that nobody uses just now.
type Idle = Mutex<Vec<Sender>>;

fn lock(idle: &Idle) -> MutexGuard<'_, Vec<Sender>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends each request on a connection of its own.
#[derive(Clone)]
struct Connections {
    connector: HttpsConnector<HttpConnector>,
    idle: Arc<Idle>,
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
        mut self,
        mut request: Request<Body>,
    ) -> std::result::Result<Response<Answer>, BoxError> {
        loop {
            let kept = lock(&self.idle).pop();
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect(request.uri().clone()).await?,
            };
            match sender.try_send_request(request).await {
                Ok(answer) => {
                    let idle = Arc::downgrade(&self.idle);
                    return Ok(answer.map(|body| Answer { body, sender: Some(sender), idle }));
                }
                // The server has closed it while nobody used it, and never saw the request.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    _ => return Err(failed.into_error().into()),
                },
            }
        }
    }

    async fn connect(&mut self, uri: Uri) -> std::result::Result<Sender, BoxError> {
        std::future::poll_fn(|cx| self.connector.poll_ready(cx)).await?;
        let stream = self.connector.call(uri).await?;
        if !stream.connected().is_negotiated_h2() {
            return Err(NotSpoken.into());
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .keep_alive_interval(SILENCE)
            .keep_alive_timeout(PATIENCE)
            .handshake(stream)
            .await?;
        // It ends with its sender and its last answer.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection has ended");
            }
        });
        Ok(sender)
    }
}

/// The body of an answer. Read to its end it gives its connection back, dropped before it ends it.
struct Answer {
    body: Incoming,
    sender: Option<Sender>,
    idle: Weak<Idle>,
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
                if let (Some(sender), Some(idle)) = (self.sender.take(), self.idle.upgrade()) {
                    let mut idle = lock(&idle);
                    idle.retain(|sender| !sender.is_closed());
                    if idle.len() < MOST_IDLE {
                        idle.push(sender);
                    }
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // Not before the connection was given back.
        self.sender.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
