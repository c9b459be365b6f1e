use super::*;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize};

use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A server whose responses have the number of pieces and the size of a piece that the path
/// specifies. With a third number the response does not end. The server counts the accepted and the
/// open connections, and the sent pieces.
struct Server {
    address: SocketAddr,
    root: Vec<u8>,
    taken: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    generation: Generation,
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
            let response = service_fn(move |request| pieces(request, Arc::clone(&sent)));
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(tcp).await {
                    let _ = server::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), response)
                        .await;
                }
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Server { address, root, taken, open, sent, generation: Generation::default() }
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
    let is_endless = number().is_some();
    let all = stream::iter((0..count).map(move |_| {
        sent.fetch_add(1, Ordering::Relaxed);
        Ok(Frame::data(Bytes::from(vec![b'x'; size])))
    }));
    let rest = match is_endless {
        true => stream::pending().left_stream(),
        false => stream::empty().right_stream(),
    };
    Ok(Response::new(StreamBody::new(all.chain(rest).boxed())))
}

impl Server {
    fn config(&self, address: SocketAddr) -> Settings {
        let uri = format!("https://localhost:{}", address.port()).parse().unwrap();
        let mut config = kube::Config::new(uri);
        config.root_cert = Some(vec![self.root.clone()]);
        config.connect_timeout = Some(Duration::from_secs(1));
        Settings::of(config)
    }

    fn client(&self) -> kube::Client {
        client(&self.config(self.address), self.generation.clone()).unwrap().unwrap()
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

async fn request(
    client: &kube::Client,
    pieces: impl std::fmt::Display,
) -> std::result::Result<Response<Body>, kube::Error> {
    client.send(Request::get(format!("/{pieces}")).body(Body::empty()).unwrap()).await
}

#[test]
fn window_size_follows_round_trip_time() {
    assert_eq!(window(Duration::from_micros(80)), 64 << 10, "this machine");
    assert_eq!(window(Duration::from_millis(1)), (64 << 20) / 1000, "this data centre");
    assert_eq!(window(Duration::from_millis(200)), 1 << 20, "far away");
}

#[test]
fn slow_connection_does_not_change_minimum_round_trip() {
    let (near, slow) = (Duration::from_millis(1), Duration::from_millis(30));
    let shortest = RoundTrip::default();
    assert_eq!([slow, near, slow].map(|took| shortest.seen(took)), [slow, near, near]);
}

#[tokio::test]
async fn missing_http2_differs_from_unreachable_server() {
    let server = serve(&[b"http/1.1"]).await;
    let error = request(&server.client(), 1).await.unwrap_err();
    assert!(is_unsupported(&error), "{error:?}");
    let away = Server { address: ([127, 0, 0, 1], 1).into(), ..server }.client();
    assert!(!is_unsupported(&request(&away, 1).await.unwrap_err()));
}

#[tokio::test]
async fn connections_are_reused_and_not_shared() {
    let server = serve(&[b"h2"]).await;
    let client = server.client();
    for _ in 0..3 {
        let response = request(&client, 100).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len(), 100 * (16 << 10));
    }
    assert_eq!(server.taken(), 1);
    // The first two responses are larger than the window.
    let (one, two) =
        (request(&client, 10_000).await.unwrap(), request(&client, 10_000).await.unwrap());
    let three = request(&client, 100).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(three.to_bytes().len(), 100 * (16 << 10));
    assert_eq!(server.taken(), 3);
    server.until_open(3).await;
    // A response that was not read to its end closes its connection.
    drop((one, two));
    server.until_open(1).await;
    drop(client);
    server.until_open(0).await;
}

#[tokio::test]
async fn slow_reader_of_small_frames_receives_all() {
    let server = serve(&[b"h2"]).await;
    let count = 3 * (64 << 10);
    let response = request(&server.client(), format!("{count}x1")).await.unwrap();
    // The window is full, and no data was read.
    while server.sent.load(Ordering::Relaxed) < 64 << 10 {
        tokio::task::yield_now().await;
    }
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(bytes.len(), count);
}

/// Forwards to a server until it is switched to silent, but still accepts connections.
async fn relay(to: SocketAddr, silent: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let silent = Arc::clone(&silent);
            tokio::spawn(async move {
                let (mut from_near, mut to_near) = near.into_split();
                let (mut from_far, mut to_far) = TcpStream::connect(to).await.unwrap().into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_far).await });
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = from_far.read(&mut buffer).await {
                    if silent.load(Ordering::Relaxed) {
                        std::future::pending::<()>().await;
                    }
                    to_near.write_all(&buffer[..read]).await.unwrap();
                }
            });
        }
    });
    address
}

/// Opens an endless response, like a watch.
async fn open_watch(client: &kube::Client) -> std::result::Result<(Liveness, Body), kube::Error> {
    let mut request = Request::get("/1x0x1").body(Body::empty()).unwrap();
    request.extensions_mut().insert(OpensWatch);
    let (head, body) = client.send(request).await?.into_parts();
    Ok((head.extensions.get::<Liveness>().expect("the response has its liveness").clone(), body))
}

#[tokio::test]
async fn watch_of_vanished_server_ends_and_idle_watch_continues() {
    let server = serve(&[b"h2"]).await;
    let silent = Arc::new(AtomicBool::new(false));
    let config = server.config(relay(server.address, Arc::clone(&silent)).await);
    let pings = Pings { interval: Duration::from_millis(50), timeout: Duration::from_secs(1) };
    let client = client_with(&config, Generation::default(), pings, pings).unwrap().unwrap();
    let (liveness, mut body) = open_watch(&client).await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(1500), body.frame()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(
        liveness.last().elapsed() < Duration::from_secs(1),
        "the responses to pings update the liveness"
    );
    silent.store(true, Ordering::Relaxed);
    let last = liveness.last();
    let cut = tokio::time::timeout(Duration::from_secs(20), body.frame()).await;
    assert!(cut.expect("the end is detected").unwrap().is_err());
    assert!(
        liveness.last() - last < Duration::from_secs(1),
        "no byte was received in the meantime"
    );
    // A server that accepts a connection and sends nothing times out.
    let opened = tokio::time::timeout(Duration::from_secs(20), open_watch(&client)).await;
    assert!(opened.expect("the silence is detected").is_err());
    // Another server responds.
    silent.store(false, Ordering::Relaxed);
    open_watch(&client).await.unwrap();
}

#[tokio::test]
async fn connections_of_earlier_generation_are_dropped() {
    let server = serve(&[b"h2"]).await;
    let client = server.client();
    let read = async || request(&client, 10).await.unwrap().into_body().collect().await.unwrap();
    read().await;
    let under_way = request(&client, 10).await.unwrap();
    assert_eq!(server.taken(), 1);
    server.generation.discard();
    under_way.into_body().collect().await.expect("requests in progress continue");
    server.until_open(0).await;
    read().await;
    assert_eq!(server.taken(), 2);
}
