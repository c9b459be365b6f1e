//! A server and proxies on loopback, for tests.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertifiedKey, KeyPair};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::connector::Io;

/// A request that the server has received.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedRequest {
    pub(crate) version: Version,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    /// Whether the client has shown a certificate.
    pub(crate) has_certificate: bool,
}

impl ReceivedRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

type Log<T> = Arc<Mutex<Vec<T>>>;

/// An API server that responds to every request, and echoes what follows an upgrade.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Log<ReceivedRequest>,
}

/// Returns a self-signed certificate for the names of the tests.
pub(crate) fn certificate() -> CertifiedKey<KeyPair> {
    let names = ["localhost", "api.example.test", "127.0.0.1", "proxy.example.test"];
    rcgen::generate_simple_self_signed(names.map(str::to_owned)).unwrap()
}

/// Returns DER as PEM.
fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// Returns a certificate as PEM.
pub(crate) fn certificate_pem(own: &CertifiedKey<KeyPair>) -> String {
    pem("CERTIFICATE", own.cert.der())
}

/// Returns the key of a certificate as PEM.
pub(crate) fn key_pem(own: &CertifiedKey<KeyPair>) -> String {
    pem("PRIVATE KEY", &own.signing_key.serialize_der())
}

fn acceptor(
    certificate: &CertifiedKey<KeyPair>,
    clients: Option<&CertifiedKey<KeyPair>>,
    protocols: &[&[u8]],
) -> TlsAcceptor {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let mut roots = RootCertStore::empty();
            roots.add(client.cert.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der());
    let mut tls = builder
        .with_single_cert(vec![certificate.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsAcceptor::from(Arc::new(tls))
}

impl Server {
    /// Starts a server that responds with the status that `choose_status` returns. Without a certificate it
    /// has no TLS.
    pub(crate) async fn start(
        certificate: Option<&CertifiedKey<KeyPair>>,
        clients: Option<&CertifiedKey<KeyPair>>,
        choose_status: impl Fn(&ReceivedRequest) -> u16 + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = certificate.map(|own| acceptor(own, clients, &[b"h2", b"http/1.1"]));
        let (seen, choose_status) = (Log::<ReceivedRequest>::default(), Arc::new(choose_status));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, log, choose_status) =
                    (acceptor.clone(), Arc::clone(&log), Arc::clone(&choose_status));
                tokio::spawn(async move {
                    let (io, is_http2, has_certificate): (Box<dyn Io>, _, _) = match acceptor {
                        None => (Box::new(tcp), false, false),
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(tcp).await else { return };
                            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            let shown = stream.get_ref().1.peer_certificates().is_some();
                            (Box::new(stream), is_http2, shown)
                        }
                    };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let seen = ReceivedRequest {
                            version: request.version(),
                            uri: request.uri().to_string(),
                            headers: request.headers().clone(),
                            has_certificate,
                        };
                        let status = choose_status(&seen);
                        log.lock().unwrap().push(seen);
                        async move { Ok::<_, Infallible>(respond(request, status)) }
                    });
                    let io = TokioIo::new(io);
                    if is_http2 {
                        let _ = http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await;
                    } else {
                        let serving = http1::Builder::new().serve_connection(io, service);
                        let _ = serving.with_upgrades().await;
                    }
                });
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Vec<ReceivedRequest> {
        self.seen.lock().unwrap().clone()
    }
}

fn respond(mut request: Request<Incoming>, status: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(r#"{"major":"1","minor":"30"}"#));
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut bytes = [0; 64];
            while let Ok(count @ 1..) = io.read(&mut bytes).await {
                io.write_all(&bytes[..count]).await.unwrap();
            }
        });
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", "upgrade".parse().unwrap());
        response.headers_mut().insert("upgrade", "echo".parse().unwrap());
    } else {
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
    }
    response
}

/// A proxy that connects every target to one server.
pub(crate) struct FakeProxy {
    pub(crate) address: SocketAddr,
    /// The method and target of each request.
    seen: Log<String>,
}

/// Protocol of a proxy.
#[derive(Clone)]
pub(crate) enum Speaks {
    Http,
    Https(Arc<CertifiedKey<KeyPair>>),
    Socks5,
}

impl FakeProxy {
    /// Starts a proxy. `user` is the required `user:password`.
    pub(crate) async fn start(speaks: Speaks, server: SocketAddr, user: Option<&str>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Log::<String>::default();
        let log = Arc::clone(&seen);
        let user = user.map(str::to_owned);
        let tls = match &speaks {
            Speaks::Https(own) => Some(acceptor(own, None, &[])),
            _ => None,
        };
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (log, user, tls, speaks) =
                    (Arc::clone(&log), user.clone(), tls.clone(), speaks.clone());
                tokio::spawn(async move {
                    let io: Box<dyn Io> = match tls {
                        None => Box::new(tcp),
                        Some(tls) => match tls.accept(tcp).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    // A peer that ends early is not a failure of the proxy.
                    let _ = match speaks {
                        Speaks::Socks5 => socks(io, server, user, log).await,
                        _ => http(io, server, user, log).await,
                    };
                });
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn relay(mut client: impl Io, server: SocketAddr, first: &[u8]) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(first).await?;
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await.map(drop)
}

async fn http(
    io: Box<dyn Io>,
    server: SocketAddr,
    user: Option<String>,
    log: Log<String>,
) -> std::io::Result<()> {
    let mut client = BufReader::new(io);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if client.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let mut line = head.lines().next().unwrap().split(' ');
    let (method, target) = (line.next().unwrap(), line.next().unwrap());
    log.lock().unwrap().push(format!("{method} {target}"));
    let wanted = user.map(|user| {
        format!("basic {}", base64::engine::general_purpose::STANDARD.encode(user)).to_lowercase()
    });
    let given = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.to_lowercase())
    });
    if wanted.is_some() && given != wanted {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        return client.write_all(refusal).await;
    }
    match method {
        "CONNECT" if target.starts_with("forbidden.example.test:") => {
            client.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno\n").await
        }
        "CONNECT" => {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            relay(client, server, b"").await
        }
        _ => {
            assert!(target.starts_with("http://"), "{target}");
            relay(client, server, head.as_bytes()).await
        }
    }
}

async fn socks(
    mut client: Box<dyn Io>,
    server: SocketAddr,
    user: Option<String>,
    log: Log<String>,
) -> std::io::Result<()> {
    let (_version, count) = (client.read_u8().await?, client.read_u8().await?);
    let mut methods = vec![0; count.into()];
    client.read_exact(&mut methods).await?;
    let method = if user.is_some() { 2 } else { 0 };
    if !methods.contains(&method) {
        return client.write_all(&[5, 0xff]).await;
    }
    client.write_all(&[5, method]).await?;
    if let Some(user) = user {
        let mut given = Vec::new();
        client.read_u8().await?;
        for end in [b":".as_slice(), b""] {
            let mut part = vec![0; client.read_u8().await?.into()];
            client.read_exact(&mut part).await?;
            given.extend([&part, end].concat());
        }
        let is_right = given == user.as_bytes();
        client.write_all(&[1, u8::from(!is_right)]).await?;
        if !is_right {
            return Ok(());
        }
    }
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    let mut host = match head[3] {
        1 => vec![0; 4],
        3 => vec![0; client.read_u8().await?.into()],
        _ => vec![0; 16],
    };
    client.read_exact(&mut host).await?;
    let port = client.read_u16().await?;
    let host = match head[3] {
        3 => String::from_utf8(host).unwrap(),
        _ => host.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
    };
    log.lock().unwrap().push(format!("SOCKS {host}:{port}"));
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    relay(client, server, b"").await
}
