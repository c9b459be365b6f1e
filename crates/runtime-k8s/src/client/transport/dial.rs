//! Opens connections to the API server.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::{PROXY_AUTHORIZATION, UPGRADE};
use http::uri::Scheme;
use http::{Request, Uri};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use runtime_core::Result;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::{ServiceBuilder, service_fn};
use tower_service::Service;

use crate::client::kubeconfig::{Authorized, Settings};
use crate::client::proxy::{Connector, Stream};
use crate::client::transport::pool::{Generation, Pool};
use crate::error;

/// TCP keepalive of a silent connection. A vanished server is detected after a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Returns a connector for TCP connections with keepalive.
pub(crate) fn tcp(connect_timeout: Option<Duration>) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(connect_timeout);
    tcp.set_keepalive(Some(KEEPALIVE_IDLE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp
}

/// Returns the connector of a configuration.
pub(crate) fn connector(settings: &Settings) -> Connector {
    let limit = settings.config.connect_timeout;
    let tls = settings.tls.as_ref().map(|tls| TlsConnector::from(Arc::clone(tls)));
    Connector::new(tcp(limit), settings.proxy.as_ref(), tls, limit)
}

/// Returns the client for all requests. Its connections use the proxy of the configuration, and are
/// discarded with their generation.
pub(crate) fn client(settings: &Settings, generation: Generation) -> Result<kube::Client> {
    let Settings { config, credentials, proxy, .. } = settings;
    let connector = connector(settings);
    // Requests for a server without TLS are sent to an HTTP proxy itself. Upgrades use a tunnel.
    let tunnels = pool(settings, connector.clone().tunnelling(), generation.clone())?;
    let takes_requests = config.cluster_url.scheme() == Some(&Scheme::HTTP)
        && proxy.as_ref().is_some_and(|proxy| proxy.takes_requests());
    let authorization = match proxy {
        Some(proxy) if takes_requests => proxy.authorization()?,
        _ => None,
    };
    let all = if takes_requests { pool(settings, connector, generation)? } else { tunnels.clone() };
    let service = service_fn(move |mut request: Request<Body>| {
        let mut pool = if request.headers().contains_key(UPGRADE) {
            tunnels.clone()
        } else {
            if let Some(header) = &authorization {
                request.headers_mut().insert(PROXY_AUTHORIZATION, header.clone());
            }
            all.clone()
        };
        async move {
            poll_fn(|cx| pool.poll_ready(cx)).await.map_err(BoxError::from)?;
            pool.call(request).await.map_err(BoxError::from)
        }
    });
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(config.extra_headers_layer().map_err(error::from_client)?)
        .service(Authorized::new(service, credentials.clone()));
    Ok(ClientBuilder::new(service, &config.default_namespace).build())
}

/// Returns a pool of connections to the server. The timeout of opening one includes TLS.
#[expect(clippy::type_complexity, reason = "the type of the connector is long")]
fn pool(
    settings: &Settings,
    connector: Connector,
    generation: Generation,
) -> Result<
    Pool<
        impl Service<
            Uri,
            Response = TokioIo<Wire>,
            Error = BoxError,
            Future = BoxFuture<'static, std::result::Result<TokioIo<Wire>, BoxError>>,
        > + Clone
        + Send
        + Sync
        + 'static,
    >,
> {
    let tls = settings.tls.as_ref().map(|tls| TlsConnector::from(Arc::clone(tls)));
    let secure = settings.server_name()?.zip(tls);
    let connector = service_fn(move |uri: Uri| {
        let (connector, secure) = (connector.clone(), secure.clone());
        let opened: BoxFuture<'static, _> = Box::pin(async move {
            let stream = connector.open(uri).await?;
            let wire = match secure {
                None => Wire::Plain(stream),
                Some((name, tls)) => Wire::Tls(Box::new(tls.connect(name, stream).await?)),
            };
            Ok::<_, BoxError>(TokioIo::new(wire))
        });
        opened
    });
    let connector = in_time(connector, settings.config.connect_timeout);
    Ok(Pool::new(connector, generation))
}

/// A connection to the server, with TLS or without.
pub(crate) enum Wire {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(stream) => stream.connected(),
            Self::Tls(_) => Connected::new(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
}

/// Returns a connector with a timeout.
fn in_time<C>(
    connector: C,
    limit: Option<Duration>,
) -> impl Service<
    Uri,
    Response = C::Response,
    Error = BoxError,
    Future = BoxFuture<'static, std::result::Result<C::Response, BoxError>>,
> + Clone
+ Send
+ Sync
+ 'static
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Send,
    C::Future: Send,
    C::Error: Into<BoxError>,
{
    service_fn(move |uri| {
        let mut connector = connector.clone();
        let open = async move {
            poll_fn(|cx| connector.poll_ready(cx)).await.map_err(Into::into)?;
            connector.call(uri).await.map_err(Into::into)
        };
        let opened: BoxFuture<'static, _> = match limit {
            Some(limit) => Box::pin(async move { tokio::time::timeout(limit, open).await? }),
            None => Box::pin(open),
        };
        opened
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::{Ipv4Addr, SocketAddr};

    use runtime_core::Error;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn request_status(scheme: &str, address: SocketAddr) -> std::result::Result<u16, Error> {
        let mut config = kube::Config::new(format!("{scheme}://{address}").parse().unwrap());
        config.connect_timeout = Some(Duration::from_millis(200));
        let request = Request::get("/version").body(Body::empty()).unwrap();
        let client = client(&Settings::of(config), Generation::default())?;
        let response = client.send(request).await.map_err(error::from_client)?;
        Ok(response.status().as_u16())
    }

    #[tokio::test]
    async fn connection_has_tcp_keepalive() {
        let (_listener, address) = listener().await;
        let uri = format!("http://{address}").parse().unwrap();
        let tcp = tcp(None).call(uri).await.unwrap().into_inner();
        let socket = socket2::SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
    }

    #[tokio::test]
    async fn unsent_request_is_detected() {
        let (server, address) = listener().await;
        let served = tokio::spawn(async move {
            let (mut peer, _) = server.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = peer.read(&mut head).await.unwrap();
            peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            // The next request is lost.
            let _ = peer.read(&mut head).await;
        });
        assert_eq!(request_status("http", address).await.unwrap(), 204);
        served.await.unwrap();
        // No server listens any more.
        let refused = request_status("http", address).await.unwrap_err();
        assert!(error::was_not_sent(&refused), "{refused:?}");
        assert!(refused.is_retryable());

        let (server, address) = listener().await;
        let served = tokio::spawn(async move { drop(server.accept().await.unwrap()) });
        let lost = request_status("http", address).await.unwrap_err();
        assert!(!error::was_not_sent(&lost), "{lost:?}");
        served.await.unwrap();
    }

    #[tokio::test]
    async fn connect_to_silent_server_times_out() {
        let (server, address) = listener().await;
        let silent = tokio::spawn(async move { server.accept().await });
        let error = request_status("https", address).await.unwrap_err();
        assert!(error::was_not_sent(&error), "{error:?}");
        assert!(error.is_retryable());
        drop(silent.await);
    }
}
