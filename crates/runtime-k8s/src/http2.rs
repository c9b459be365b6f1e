//! Long answers over HTTP/2, a connection for each while it is read.
//!
//! kube speaks HTTP/1.1, in which an API server writes an answer and reads on from the node in
//! turns. In HTTP/2 it does both at once, which is what kubectl has.
//!
//! Connections are kept for the next answer and never shared: a server allows few answers at a time
//! on one, and a reader that is slow would hold up all others.

use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
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
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use runtime_core::{Error, Result};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tower::ServiceBuilder;
use tower_service::Service;

use crate::dial;
use crate::error;
use crate::gather::Gathered;

/// How much of an answer may be on its way while its reader is busy: as much as keeps a link of
/// this speed in use, in bytes a second, within these limits.
///
/// More would do harm. A node writes a log line by line, and an API server that may pass on all it
/// gets does so line by line too; made to wait for its reader, it passes on what has come
/// meanwhile in one piece, and has time for the node.
const LINK: f64 = (64 << 20) as f64;
const WINDOWS: RangeInclusive<f64> = (64 << 10) as f64..=(1 << 20) as f64;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between the limits")]
fn window(round_trip: Duration) -> u32 {
    (round_trip.as_secs_f64() * LINK).clamp(*WINDOWS.start(), *WINDOWS.end()) as u32
}

/// Its name where the protocol is agreed on.
const HTTP2: &[u8] = b"h2";

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
    let mut tls = config.rustls_client_config().map_err(error::from_client)?;
    tls.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    let server_name = match (&config.tls_server_name, config.cluster_url.host()) {
        (Some(name), _) => ServerName::try_from(name.clone()).map_err(|source| {
            Error::invalid("kubeconfig", "has no server name in tls-server-name")
                .with_source(source)
        })?,
        // An IPv6 address stands in brackets there.
        (None, host) => host
            .map(|host| host.trim_matches(['[', ']']).to_owned())
            .and_then(|host| ServerName::try_from(host).ok())
            .ok_or_else(|| Error::invalid("kubeconfig", "has no host in the server's address"))?,
    };
    let mut tcp = dial::tcp(config.connect_timeout);
    tcp.set_nodelay(true);
    let tls = TlsConnector::from(Arc::new(tls));
    let connections =
        Connections { tcp, tls, server_name, idle: Arc::default(), shortest: Arc::default() };
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(error::from_client)?)
        .layer(config.extra_headers_layer().map_err(error::from_client)?)
        .service(connections);
    Ok(Some(ClientBuilder::new(service, &config.default_namespace).build()))
}

type Sender = SendRequest<Body>;

/// The window of the connection of an answer with this window, which it never fills.
///
/// h2 ends a connection on which too many small pieces wait for their reader: each may cost 256 bytes
/// beside its own, and half of this window is what all may cost. A log of empty lines is one of pieces
/// of one byte.
fn room(window: u32) -> u32 {
    window.saturating_mul(2 * 256).min((1 << 31) - 1)
}

/// The connections that nobody uses just now.
type Idle = Mutex<Vec<Sender>>;

fn lock(idle: &Idle) -> MutexGuard<'_, Vec<Sender>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends each request on a connection of its own.
#[derive(Clone)]
struct Connections {
    tcp: HttpConnector,
    tls: TlsConnector,
    server_name: ServerName<'static>,
    idle: Arc<Idle>,
    shortest: Arc<RoundTrip>,
}

/// The shortest time to the server and back that was seen, in nanoseconds: the one that the fewest
/// other things have lengthened.
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

/// Whether a connection ends where it begins, however long a busy machine takes to open it.
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
        std::future::poll_fn(|cx| self.tcp.poll_ready(cx)).await?;
        let begun = Instant::now();
        let tcp = self.tcp.call(uri).await?.into_inner();
        let took = if is_local(&tcp) { Duration::ZERO } else { begun.elapsed() };
        let window = window(self.shortest.seen(took));
        let stream = self.tls.connect(self.server_name.clone(), Gathered::new(tcp)).await?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(NotSpoken.into());
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(window)
            .initial_connection_window_size(room(window))
            .keep_alive_interval(SILENCE)
            .keep_alive_timeout(PATIENCE)
            .handshake(TokioIo::new(stream))
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

#[cfg(test)]
mod tests {
    use super::*;

    use std::convert::Infallible;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::atomic::AtomicUsize;

    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::server::conn::http2 as server;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    /// A server that answers every path, with as many pieces as the path says, and of the size that it
    /// says. It knows how many connections it was asked for, how many are open, and how many pieces it
    /// was about to send.
    struct Server {
        address: SocketAddr,
        root: Vec<u8>,
        taken: Arc<AtomicUsize>,
        open: Arc<AtomicUsize>,
        sent: Arc<AtomicUsize>,
    }

    async fn serve(protocols: &[&[u8]]) -> Server {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let root = made.cert.der().to_vec();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (taken, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&taken), Arc::clone(&open));
        let sent = Arc::new(AtomicUsize::new(0));
        let about_to_send = Arc::clone(&sent);
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                counts.0.fetch_add(1, Ordering::Relaxed);
                counts.1.fetch_add(1, Ordering::Relaxed);
                let (acceptor, open) = (acceptor.clone(), Arc::clone(&counts.1));
                let sent = Arc::clone(&about_to_send);
                let answer = service_fn(move |request| pieces(request, Arc::clone(&sent)));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(tcp).await {
                        let _ = server::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), answer)
                            .await;
                    }
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Server { address, root, taken, open, sent }
    }

    type Pieces = StreamBody<
        futures_util::stream::BoxStream<'static, std::result::Result<Frame<Bytes>, Infallible>>,
    >;

    async fn pieces(
        request: Request<Incoming>,
        sent: Arc<AtomicUsize>,
    ) -> std::result::Result<Response<Pieces>, Infallible> {
        let mut words = request.uri().path()[1..].split('x');
        let mut number = || words.next().map(|word| word.parse::<usize>().unwrap());
        let (count, size) = (number().unwrap(), number().unwrap_or(16 << 10));
        let all = stream::iter((0..count).map(move |_| {
            sent.fetch_add(1, Ordering::Relaxed);
            Ok(Frame::data(Bytes::from(vec![b'x'; size])))
        }));
        Ok(Response::new(StreamBody::new(futures_util::StreamExt::boxed(all))))
    }

    impl Server {
        fn client(&self) -> kube::Client {
            let uri = format!("https://localhost:{}", self.address.port()).parse().unwrap();
            let mut config = kube::Config::new(uri);
            config.root_cert = Some(vec![self.root.clone()]);
            client(&config).unwrap().unwrap()
        }

        fn taken(&self) -> usize {
            self.taken.load(Ordering::Relaxed)
        }

        async fn until_open(&self, count: usize) {
            let end = tokio::time::Instant::now() + Duration::from_secs(20);
            while self.open.load(Ordering::Relaxed) != count {
                assert!(
                    tokio::time::Instant::now() < end,
                    "{} are open",
                    self.open.load(Ordering::Relaxed)
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    async fn ask(
        client: &kube::Client,
        pieces: impl std::fmt::Display,
    ) -> std::result::Result<Response<Body>, kube::Error> {
        client.send(Request::get(format!("/{pieces}")).body(Body::empty()).unwrap()).await
    }

    #[test]
    fn a_window_holds_what_is_on_its_way() {
        assert_eq!(window(Duration::from_micros(80)), 64 << 10, "this machine");
        assert_eq!(window(Duration::from_millis(1)), (64 << 20) / 1000, "this data centre");
        assert_eq!(window(Duration::from_millis(200)), 1 << 20, "far away");
    }

    #[test]
    fn one_slow_connection_is_not_the_distance() {
        let (near, slow) = (Duration::from_millis(1), Duration::from_millis(30));
        let shortest = RoundTrip::default();
        assert_eq!([slow, near, slow].map(|took| shortest.seen(took)), [slow, near, near]);
    }

    #[tokio::test]
    async fn a_server_without_it_is_told_apart_from_one_that_is_away() {
        let server = serve(&[b"http/1.1"]).await;
        let error = ask(&server.client(), 1).await.unwrap_err();
        assert!(is_not_spoken(&error), "{error:?}");
        let away = Server { address: ([127, 0, 0, 1], 1).into(), ..server }.client();
        assert!(!is_not_spoken(&ask(&away, 1).await.unwrap_err()));
    }

    #[tokio::test]
    async fn connections_are_used_again_and_never_shared() {
        let server = serve(&[b"h2"]).await;
        let client = server.client();
        for _ in 0..3 {
            let answer = ask(&client, 100).await.unwrap();
            let bytes = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(bytes.len(), 100 * (16 << 10));
        }
        assert_eq!(server.taken(), 1);
        // The first two have more to say than there is room for.
        let (one, two) = (ask(&client, 10_000).await.unwrap(), ask(&client, 10_000).await.unwrap());
        let three = ask(&client, 100).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(three.to_bytes().len(), 100 * (16 << 10));
        assert_eq!(server.taken(), 3);
        server.until_open(3).await;
        // Who has not read to the end closes the connection, and nothing is left with the client.
        drop((one, two));
        server.until_open(1).await;
        drop(client);
        server.until_open(0).await;
    }

    #[tokio::test]
    async fn a_reader_may_be_slow_and_the_pieces_small() {
        let server = serve(&[b"h2"]).await;
        let count = 3 * (64 << 10);
        let answer = ask(&server.client(), format!("{count}x1")).await.unwrap();
        // All that the window has room for is on its way, and nobody has read any.
        while server.sent.load(Ordering::Relaxed) < 64 << 10 {
            tokio::task::yield_now().await;
        }
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len(), count);
    }
}
