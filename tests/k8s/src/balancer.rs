//! A TCP balancer in front of an API server, with the faults that balancers bring along.
//!
//! It takes connections whatever becomes of the server. Its backend can vanish without closing
//! anything, and connections without traffic are dropped after a time.

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

/// What connections lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Backend {
    /// A connection leads to the backend that there was when it was opened.
    number: usize,
    /// Whether it passes anything on.
    answers: bool,
}

/// The balancer. It ends with the runtime that it was started in.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    backend: watch::Sender<Backend>,
    taken: Arc<AtomicUsize>,
    kubeconfig: tempfile::TempPath,
}

impl Balancer {
    /// Starts a balancer in front of the server of a kubeconfig. Connections that are idle for `idle`
    /// are dropped.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
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

    /// The kubeconfig that leads through the balancer.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// The backend vanishes and another takes its place: connections from before pass nothing on any
    /// more, and stay open.
    pub fn fail_over(&self) {
        self.backend.send_modify(|backend| {
            *backend = Backend { number: backend.number + 1, answers: true };
        });
    }

    /// The backend vanishes, and no other takes its place until [`fail_over`](Self::fail_over).
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
    // Lost with its backend: nothing is passed on, and nothing is closed.
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
        // Whoever holds the other end finds out for himself.
        () = gone => std::future::pending().await,
        () = carried => {}
        () = idles(heard, idle) => {}
    }
}

/// Passes on what arrives, and its end.
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

/// Completes when there was no traffic for so long.
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
