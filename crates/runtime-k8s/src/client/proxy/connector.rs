//! Opens connections to the API server, through a proxy if there is one.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_socks::tcp::Socks5Stream;
use tower_service::Service;

use super::{Protocol, Proxy};
use crate::error::ProxyRefused;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A byte stream of any kind.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection to the server, or to a proxy that takes its requests.
pub(crate) enum Stream {
    Direct(TcpStream),
    /// A tunnel: the peer is the server.
    Tunnel(Box<dyn Io>),
    /// A connection to an HTTP proxy that is sent requests with absolute targets.
    Proxy(Box<dyn Io>),
}

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    way: Way,
    /// How long a connection may take to be opened.
    limit: Option<Duration>,
}

#[derive(Clone)]
enum Way {
    Direct,
    Proxied { proxy: Arc<Proxy>, tls: Option<TlsConnector>, always_tunnels: bool },
}

impl Connector {
    /// Returns a connector. `tls` is for the connection to an HTTPS proxy.
    pub(crate) fn new(
        tcp: HttpConnector,
        proxy: Option<&Arc<Proxy>>,
        tls: Option<TlsConnector>,
        limit: Option<Duration>,
    ) -> Self {
        let way = proxy.map_or(Way::Direct, |proxy| Way::Proxied {
            proxy: Arc::clone(proxy),
            tls,
            always_tunnels: false,
        });
        Self { tcp, way, limit }
    }

    /// Returns a connector whose connections send small pieces at once.
    pub(crate) fn without_delay(mut self) -> Self {
        self.tcp.set_nodelay(true);
        self
    }

    /// Returns a connector that opens tunnels, also to servers without TLS.
    pub(crate) fn tunnelling(mut self) -> Self {
        if let Way::Proxied { always_tunnels, .. } = &mut self.way {
            *always_tunnels = true;
        }
        self
    }

    /// Opens a connection to a server.
    pub(crate) async fn open(self, server: Uri) -> Result<Stream, BoxError> {
        let limit = self.limit;
        let opened = self.open_without_limit(server);
        match limit {
            Some(limit) => tokio::time::timeout(limit, opened).await?,
            None => opened.await,
        }
    }

    async fn open_without_limit(mut self, server: Uri) -> Result<Stream, BoxError> {
        let (proxy, tls, always_tunnels) = match self.way.clone() {
            Way::Direct => return self.connect(server).await.map(Stream::Direct),
            Way::Proxied { proxy, tls, always_tunnels } => (proxy, tls, always_tunnels),
        };
        let address: Uri = format!("http://{proxy}").parse()?;
        let connected = self.connect(address).await;
        let tcp = connected.map_err(|cause| proxy.failed(format!("{}", Causes(&*cause))))?;
        let io: Box<dyn Io> = match (proxy.is_encrypted(), tls) {
            (false, _) => Box::new(tcp),
            (true, Some(tls)) => {
                let name = ServerName::try_from(proxy.host.clone())?;
                let handshake = tls.connect(name, tcp).await;
                Box::new(handshake.map_err(|cause| proxy.failed(cause.to_string()))?)
            }
            (true, None) => return Err(proxy.failed("there is no TLS for it".into()).into()),
        };
        let is_plain = server.scheme_str() == Some("http");
        if is_plain && !always_tunnels && proxy.takes_requests() {
            return Ok(Stream::Proxy(io));
        }
        let host = server.host().unwrap_or_default();
        let port = server.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        match proxy.protocol {
            Protocol::Http | Protocol::Https => tunnel(&proxy, io, host, port).await,
            Protocol::Socks5 => socks(&proxy, io, host, port).await,
        }
        .map(Stream::Tunnel)
    }

    async fn connect(&mut self, address: Uri) -> Result<TcpStream, BoxError> {
        std::future::poll_fn(|cx| self.tcp.poll_ready(cx)).await?;
        Ok(self.tcp.call(address).await?.into_inner())
    }
}

impl Proxy {
    fn failed(&self, cause: String) -> ProxyRefused {
        ProxyRefused { proxy: self.to_string(), status: None, cause }
    }
}

/// An error and its sources in one line.
struct Causes<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// Opens a tunnel with `CONNECT`.
async fn tunnel(
    proxy: &Proxy,
    io: Box<dyn Io>,
    host: &str,
    port: u16,
) -> Result<Box<dyn Io>, BoxError> {
    let target = format!("{host}:{port}");
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(&target)
        .header(http::header::HOST, &target)
        .body(Empty::<Bytes>::new())?;
    if let Some(header) = proxy.authorization()? {
        request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, header);
    }
    let failed = |cause: hyper::Error| proxy.failed(Causes(&cause).to_string());
    let (mut sender, mut connection) = http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
    let mut response = std::pin::pin!(sender.send_request(request));
    let mut is_over = false;
    let response = std::future::poll_fn(|cx| {
        // Polling the connection is what sends the request and reads the response.
        if !is_over && let Poll::Ready(over) = connection.poll_without_shutdown(cx) {
            is_over = true;
            over?;
        }
        response.as_mut().poll(cx)
    })
    .await
    .map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        let cause = format!("it returned {status} to CONNECT {target}");
        return Err(ProxyRefused { status: Some(status), ..proxy.failed(cause) }.into());
    }
    if !is_over {
        std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(failed)?;
    }
    let parts = connection.into_parts();
    // The server sends nothing before the client has.
    if !parts.read_buf.is_empty() {
        return Err(proxy.failed(format!("it sent data after its response to {target}")).into());
    }
    Ok(parts.io.into_inner())
}

/// Opens a tunnel with SOCKS5. The proxy resolves the name of the server.
async fn socks(
    proxy: &Proxy,
    io: Box<dyn Io>,
    host: &str,
    port: u16,
) -> Result<Box<dyn Io>, BoxError> {
    let host = host.trim_matches(['[', ']']);
    let opened = match &proxy.user {
        Some((user, password)) => {
            Socks5Stream::connect_with_password_and_socket(io, (host, port), user, password).await
        }
        None => Socks5Stream::connect_with_socket(io, (host, port)).await,
    };
    match opened {
        Ok(stream) => Ok(stream.into_inner()),
        Err(cause) => {
            use tokio_socks::Error as Socks;
            let status = matches!(
                cause,
                Socks::PasswordAuthFailure(_)
                    | Socks::NoAcceptableAuthMethods
                    | Socks::AuthorizationRequired
            );
            let status = status.then_some(StatusCode::PROXY_AUTHENTICATION_REQUIRED);
            Err(ProxyRefused { status, ..proxy.failed(cause.to_string()) }.into())
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, BoxError>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let opened = self.clone().open(server);
        Box::pin(async move { Ok(TokioIo::new(opened.await?)) })
    }
}

impl Stream {
    /// Returns the TCP connection to the server itself.
    pub(crate) fn direct(&self) -> Option<&TcpStream> {
        match self {
            Self::Direct(tcp) => Some(tcp),
            Self::Tunnel(_) | Self::Proxy(_) => None,
        }
    }

    fn io(self: Pin<&mut Self>) -> Pin<&mut dyn Io> {
        match self.get_mut() {
            Self::Direct(tcp) => Pin::new(tcp),
            Self::Tunnel(io) | Self::Proxy(io) => Pin::new(io),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(matches!(self, Self::Proxy(_)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Direct(tcp) => tcp.is_write_vectored(),
            Self::Tunnel(io) | Self::Proxy(io) => io.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, bufs)
    }
}
