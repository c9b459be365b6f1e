//! Opens the connections: Unix sockets, TCP, TLS.

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

use crate::options::{Endpoint, Place};

/// A connection, of whatever kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Connection for Box<dyn Stream> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Opens connections to one endpoint, whatever the URI says.
#[derive(Clone)]
pub(crate) struct Connector {
    place: Arc<Place>,
    deadline: Duration,
    #[cfg(feature = "tls")]
    tls: Option<super::tls::Tls>,
}

impl Connector {
    /// # Errors
    /// `InvalidArgument` when the certificates cannot be read; `Unsupported` without TLS.
    pub(crate) fn new(endpoint: &Endpoint, deadline: Duration) -> runtime_core::Result<Self> {
        #[cfg(not(feature = "tls"))]
        if endpoint.tls().is_some() {
            return Err(runtime_core::Error::new(runtime_core::ErrorKind::Unsupported)
                .with_field("host")
                .with_message("this build is without the cargo feature `tls`"));
        }
        Ok(Self {
            place: Arc::new(endpoint.place().clone()),
            deadline,
            #[cfg(feature = "tls")]
            tls: endpoint.tls().map(super::tls::Tls::new).transpose()?,
        })
    }

    async fn open(self) -> io::Result<TokioIo<Box<dyn Stream>>> {
        let connecting = async {
            let stream: Box<dyn Stream> = match &*self.place {
                Place::Unix(path) => Box::new(open_unix(path).await?),
                Place::Tcp { host, port } => {
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

/// How a connection is tried on which nothing comes: a wait, a follower and the events are silent
/// for as long as nothing happens, and nothing else would ever tell that the engine's host is gone.
/// So they are cut off a minute after the last sign of it, and come again.
const SILENCE: Duration = Duration::from_secs(30);
const BETWEEN_TRIES: Duration = Duration::from_secs(10);
const TRIES: u32 = 3;

async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(SILENCE).with_interval(BETWEEN_TRIES).with_retries(TRIES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// A socket whose queue of connections is full answers "try again", which for a Unix socket is no
/// event that one could wait for.
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
    async fn a_tcp_connection_finds_out_that_its_engine_is_gone() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = open_tcp("127.0.0.1", port).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), SILENCE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), BETWEEN_TRIES);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), TRIES);
    }
}
