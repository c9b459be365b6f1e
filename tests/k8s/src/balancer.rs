//! TCP balancer in front of an API server, with the faults of real balancers.
//!
//! It accepts connections even if the server is down. Its backend can vanish without closing any connection,
//! and connections without traffic are dropped after a timeout.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kube::config::Kubeconfig;
use runtime_conformance::BoxError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

/// Backend of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Backend {
    /// Number of the backend; a connection stays with the backend that was current when it was opened.
    number: usize,
    /// `true` if the backend forwards data.
    answers: bool,
}

/// TCP balancer. It stops with the runtime in which it was started.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    backend: watch::Sender<Backend>,
    taken: Arc<AtomicUsize>,
    kubeconfig: tempfile::TempPath,
}

impl Balancer {
    /// Starts a balancer in front of the server of a kubeconfig. Connections that are idle for `idle` are
    /// dropped.
    ///
    /// # Errors
    /// If the kubeconfig is invalid.
    pub async fn start(kubeconfig: &Path, idle: Option<Duration>) -> Result<Self, BoxError> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let clusters = Kubeconfig::read_from(kubeconfig)?.clusters;
        let server = clusters
            .first()
            .and_then(|named| named.cluster.as_ref()?.server.clone())
            .ok_or("a kubeconfig without a server")?;
        let (scheme, host) = server.split_once("://").ok_or("a server without a scheme")?;
        let upstream: SocketAddr = host.trim_end_matches('/').parse()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text.replace(&server, &format!("{scheme}://{address}")))?;

        let (backend, current) = watch::channel(Backend { number: 0, answers: true });
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(near, upstream, current.clone(), idle));
            }
        });
        Ok(Self { address, backend, taken, kubeconfig: file.into_temp_path() })
    }

    /// Returns the kubeconfig for the balancer.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Returns the listen address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of accepted connections.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Replaces the backend: older connections forward no more data, and stay open.
    pub fn fail_over(&self) {
        self.backend.send_modify(|backend| {
            *backend = Backend { number: backend.number + 1, answers: true };
        });
    }

    /// Removes the backend; there is no other until [`fail_over`](Self::fail_over).
    pub fn vanish(&self) {
        self.backend.send_modify(|backend| {
            *backend = Backend { number: backend.number + 1, answers: false };
        });
    }
}

async fn carry(
    near: TcpStream,
    upstream: SocketAddr,
    mut current: watch::Receiver<Backend>,
    idle: Option<Duration>,
) {
    let ours = *current.borrow_and_update();
    // After the loss of the backend, nothing is forwarded and nothing is closed.
    let gone = async move {
        if ours.answers {
            let _ = current.wait_for(|now| now.number != ours.number).await;
        }
    };
    let Ok(far) = TcpStream::connect(upstream).await else { return };
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) =
        (near.into_split(), far.into_split());
    let (traffic, heard) = watch::channel(Instant::now());
    let carried = async {
        tokio::join!(
            copy(&mut from_near, &mut to_far, &traffic),
            copy(&mut from_far, &mut to_near, &traffic),
        );
    };
    tokio::select! {
        biased;
        // The peers are not notified.
        () = gone => std::future::pending().await,
        () = carried => {}
        () = idles(heard, idle) => {}
    }
}

/// Forwards data and the end of the stream.
async fn copy(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, traffic: &watch::Sender<Instant>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        traffic.send_replace(Instant::now());
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Completes after `limit` without traffic.
async fn idles(heard: watch::Receiver<Instant>, limit: Option<Duration>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        let end = *heard.borrow() + limit;
        if Instant::now() >= end {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}
