//! Opens connections to the engine: Unix sockets, TCP, TLS.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tower_service::Service;

use crate::options::{Address, Endpoint};

/// A connection of any kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Connection for Box<dyn Stream> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Opens connections to one endpoint, independently of the URI of a request.
#[derive(Clone)]
pub(crate) struct Connector {
    address: Arc<Address>,
    deadline: Duration,
    #[cfg(feature = "tls")]
    tls: Option<super::tls::Tls>,
}

impl Connector {
    /// Loads the certificates of the endpoint.
    ///
    /// # Errors
    /// `InvalidArgument` if the certificates cannot be read; `Unsupported` without the feature `tls`.
    pub(crate) fn new(endpoint: &Endpoint, deadline: Duration) -> runtime_core::Result<Self> {
        #[cfg(not(feature = "tls"))]
        if endpoint.tls().is_some() {
            return Err(runtime_core::Error::new(runtime_core::ErrorKind::Unsupported)
                .with_field("host")
                .with_message("TLS requires the cargo feature `tls`"));
        }
        Ok(Self {
            address: Arc::new(endpoint.address().clone()),
            deadline,
            #[cfg(feature = "tls")]
            tls: endpoint.tls().map(super::tls::Tls::new).transpose()?,
        })
    }

    async fn open(self) -> io::Result<TokioIo<Box<dyn Stream>>> {
        let connecting = async {
            let stream: Box<dyn Stream> = match &*self.address {
                Address::Unix(path) => Box::new(open_unix(path).await?),
                Address::Tcp { host, port } => {
                    let stream = open_tcp(host, *port).await?;
                    #[cfg(feature = "tls")]
                    if let Some(tls) = &self.tls {
                        let stream: Box<dyn Stream> = Box::new(tls.handshake(host, stream).await?);
                        return Ok(TokioIo::new(stream));
                    }
                    Box::new(stream)
                }
            };
            Ok(TokioIo::new(stream))
        };
        tokio::time::timeout(self.deadline, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The idle time before the first TCP keepalive probe. Waits, followers and event streams can be idle
/// for any time, so only keepalive detects that the engine's host is down: after a minute with these
/// values.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
/// The time between two keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The number of lost keepalive probes that closes the connection.
const KEEPALIVE_RETRIES: u32 = 3;

async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// Connects to a Unix socket. Retries while the backlog of the socket is full, because the readiness
/// of a Unix socket cannot be polled.
async fn open_unix(path: &std::path::Path) -> io::Result<UnixStream> {
    let mut backoff =
        runtime_core::Backoff::new(Duration::from_millis(1), Duration::from_millis(50));
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(backoff.delay()).await;
            }
            done => return done,
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().open())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tcp_connection_has_keepalive() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = open_tcp("127.0.0.1", port).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_TIME);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
    }
}
