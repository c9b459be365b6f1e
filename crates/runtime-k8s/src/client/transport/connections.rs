//! The connections of a client, which can be closed while their bodies are still being read.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use kube::client::Body;
use runtime_core::{Error, ErrorKind, Result};
use runtime_support::OnExecutor;
use tokio::time::Instant;

use crate::client::transport::pool::Generation;
use crate::error;

/// Minimum time of a read, independently of the silence limit.
const DELIVERY_GRACE: Duration = Duration::from_secs(2);

/// The HTTP clients of a connection.
#[derive(Clone)]
pub(crate) struct Clients {
    /// The client for all requests.
    pub(crate) all: kube::Client,
    /// The client for long responses, if the server may support HTTP/2.
    pub(crate) long: Option<kube::Client>,
    /// The generation of the pools of both.
    pub(crate) generation: Generation,
}

impl Clients {
    /// Returns the client of the caller, which has its own connections.
    pub(crate) fn single(client: kube::Client) -> OnExecutor<Self> {
        OnExecutor::only(Self { all: client, long: None, generation: Generation::default() })
    }
}

/// The clients and the open bodies, until they are closed.
pub(crate) struct Connections {
    clients: Mutex<Option<OnExecutor<Clients>>>,
    /// Set if the server does not support HTTP/2.
    long_is_disabled: AtomicBool,
    bodies: Mutex<Vec<Weak<Slot>>>,
    losses: Arc<Losses>,
}

/// Lost connections.
#[derive(Debug, Default)]
struct Losses {
    /// The time of the last loss.
    last: Mutex<Option<Instant>>,
    generation: Generation,
}

impl Losses {
    /// Records a lost connection, and discards the pooled connections, because they lead to the
    /// same server.
    fn note(&self) {
        *lock(&self.last) = Some(Instant::now());
        self.generation.discard();
    }
}

type Slot = Mutex<Option<Body>>;

/// A response body that is still being received. Dropping it closes its connection.
pub(crate) struct OpenBody {
    slot: Arc<Slot>,
    losses: Arc<Losses>,
    /// Timeout of the next data.
    silence_limit: Option<Duration>,
    /// The time at which data last arrived, or was read.
    last: Instant,
}

impl Connections {
    pub(crate) fn new(clients: OnExecutor<Clients>) -> Self {
        let generation = clients.get().generation;
        let losses = Arc::new(Losses { generation, ..Losses::default() });
        Self {
            clients: Mutex::new(Some(clients)),
            long_is_disabled: AtomicBool::new(false),
            bodies: Mutex::default(),
            losses,
        }
    }

    /// Returns the clients.
    ///
    /// # Errors
    /// `InvalidState` after a close.
    pub(crate) fn clients(&self) -> Result<Clients> {
        let mut clients = lock(&self.clients).as_ref().ok_or_else(closed)?.get();
        clients.long = clients.long.filter(|_| !self.long_is_disabled.load(Ordering::Relaxed));
        Ok(clients)
    }

    /// Uses HTTP/1.1 for long responses from now on.
    pub(crate) fn disable_long(&self) {
        self.long_is_disabled.store(true, Ordering::Relaxed);
    }

    /// Returns a body that a close also closes.
    pub(crate) fn hold(&self, body: Body) -> OpenBody {
        let slot = Arc::new(Mutex::new(Some(body)));
        let mut bodies = lock(&self.bodies);
        bodies.retain(|slot| slot.strong_count() > 0);
        bodies.push(Arc::downgrade(&slot));
        drop(bodies);
        if lock(&self.clients).is_none() {
            lock(&slot).take();
        }
        OpenBody {
            slot,
            losses: Arc::clone(&self.losses),
            silence_limit: None,
            last: Instant::now(),
        }
    }

    /// Records a lost connection.
    pub(crate) fn lost(&self) {
        self.losses.note();
    }

    /// Discards the pooled connections after a request without a response.
    pub(crate) fn discard(&self) {
        self.losses.generation.discard();
    }

    /// Returns whether a connection was lost within this time.
    pub(crate) fn was_lost(&self, within: Duration) -> bool {
        lock(&self.losses.last).is_some_and(|lost| lost.elapsed() < within)
    }

    /// Drops the clients with their connections, and all bodies.
    pub(crate) fn close(&self) {
        lock(&self.clients).take();
        for slot in lock(&self.bodies).drain(..) {
            if let Some(slot) = slot.upgrade() {
                lock(&slot).take();
            }
        }
    }
}

impl OpenBody {
    /// Sets a timeout for the next data.
    pub(crate) fn with_silence_limit(mut self, limit: Duration) -> Self {
        self.silence_limit = Some(limit);
        self
    }

    /// Returns the next bytes; `None` at the end. It is cancel safe.
    ///
    /// # Errors
    /// `Unavailable` if the connection was lost, or at the silence limit.
    pub(crate) async fn data(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.frame_in_time().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    async fn frame_in_time(&mut self) -> Option<Result<Frame<Bytes>>> {
        let Some(limit) = self.silence_limit else { return self.frame().await };
        // Data that has arrived since the last read takes a moment to be delivered.
        let end = (self.last + limit).max(Instant::now() + DELIVERY_GRACE);
        match tokio::time::timeout_at(end, self.frame()).await {
            Ok(frame) => {
                self.last = Instant::now();
                frame
            }
            Err(_) => {
                self.last = Instant::now();
                self.losses.generation.discard();
                Some(Err(Error::new(ErrorKind::Unavailable)
                    .with_message(format!("the API server has sent nothing for {limit:?}"))))
            }
        }
    }

    /// Returns the next frame. It is cancel safe.
    async fn frame(&mut self) -> Option<Result<Frame<Bytes>>> {
        poll_fn(|cx| match lock(&self.slot).as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx).map(|frame| {
                Some(frame?.map_err(|source| {
                    self.losses.note();
                    error::from_client(source)
                }))
            }),
            None => Poll::Ready(Some(Err(closed()))),
        })
        .await
    }
}

#[cfg(test)]
impl OpenBody {
    /// Returns a body that no close closes.
    pub(crate) fn of(body: Body) -> Self {
        Self {
            slot: Arc::new(Mutex::new(Some(body))),
            losses: Arc::default(),
            silence_limit: None,
            last: Instant::now(),
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the runtime was closed")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::client::tests::{endless, slow};

    #[tokio::test(start_paused = true)]
    async fn log_without_data_fails_at_silence_limit() {
        let client = slow(|_, _| async { (200, endless(vec!["line\n".to_owned()])) });
        let mut body = client.open_log("p", &[("follow", "true".to_owned())]).await.unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "line\n");
        let begun = Instant::now();
        // A reader that is cancelled repeatedly.
        let error = loop {
            match tokio::time::timeout(DELIVERY_GRACE * 2, body.data()).await {
                Ok(read) => break read.unwrap_err(),
                Err(_) => {
                    assert!(begun.elapsed() < Duration::from_secs(600), "the read has no timeout");
                }
            }
        };
        assert!(error.is_retryable(), "{error:?}");
        assert!(begun.elapsed() >= Duration::from_secs(60), "{:?}", begun.elapsed());
    }
}
