//! The connections of a client, and how they are closed while somebody still holds what they give.

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

/// How long a read that has just begun may take at least.
const MOMENT: Duration = Duration::from_secs(2);

/// The ways to the server.
#[derive(Clone)]
pub(crate) struct Clients {
    /// For everything.
    pub(crate) all: kube::Client,
    /// For answers that are long, where there is another way for them.
    pub(crate) long: Option<kube::Client>,
    /// What the pools of both are discarded by.
    pub(crate) generation: Generation,
}

impl Clients {
    /// A client of the caller's, whose connections are its own.
    pub(crate) fn single(client: kube::Client) -> OnExecutor<Self> {
        OnExecutor::only(Self { all: client, long: None, generation: Generation::default() })
    }
}

/// What is open, or nothing once it was closed.
pub(crate) struct Link {
    clients: Mutex<Option<OnExecutor<Clients>>>,
    /// Set when long answers go the way of all others.
    has_no_long: AtomicBool,
    bodies: Mutex<Vec<Weak<Slot>>>,
    losses: Arc<Losses>,
}

/// What is known of connections that were lost.
#[derive(Debug, Default)]
struct Losses {
    /// When the last one was lost.
    last: Mutex<Option<Instant>>,
    generation: Generation,
}

impl Losses {
    /// A connection was lost. The pooled ones lead to the same server, so they are discarded.
    fn note(&self) {
        *lock(&self.last) = Some(Instant::now());
        self.generation.discard();
    }
}

type Slot = Mutex<Option<Body>>;

/// A body that comes as long as it is read. Dropping it closes its connection.
pub(crate) struct OpenBody {
    slot: Arc<Slot>,
    losses: Arc<Losses>,
    /// How long nothing may arrive.
    silence_limit: Option<Duration>,
    /// When something arrived last, or was read.
    last: Instant,
}

impl Link {
    pub(crate) fn new(clients: OnExecutor<Clients>) -> Self {
        let generation = clients.get().generation;
        let losses = Arc::new(Losses { generation, ..Losses::default() });
        Self {
            clients: Mutex::new(Some(clients)),
            has_no_long: AtomicBool::new(false),
            bodies: Mutex::default(),
            losses,
        }
    }

    /// The clients.
    ///
    /// # Errors
    /// `InvalidState` once they were closed.
    pub(crate) fn clients(&self) -> Result<Clients> {
        let mut clients = lock(&self.clients).as_ref().ok_or_else(closed)?.get();
        clients.long = clients.long.filter(|_| !self.has_no_long.load(Ordering::Relaxed));
        Ok(clients)
    }

    /// Long answers go the way of all others from now on.
    pub(crate) fn forget_long(&self) {
        self.has_no_long.store(true, Ordering::Relaxed);
    }

    /// Takes a body that is closed with the rest.
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

    /// A connection was lost.
    pub(crate) fn lost(&self) {
        self.losses.note();
    }

    /// Discards the pooled connections, because the server has left a request without an answer.
    pub(crate) fn discard(&self) {
        self.losses.generation.discard();
    }

    /// Whether a connection was lost so short a time ago.
    pub(crate) fn was_lost(&self, within: Duration) -> bool {
        lock(&self.losses.last).is_some_and(|lost| lost.elapsed() < within)
    }

    /// Drops the clients, with the connections that they keep, and every body.
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
    /// Fails if nothing arrives for so long.
    pub(crate) fn with_silence_limit(mut self, limit: Duration) -> Self {
        self.silence_limit = Some(limit);
        self
    }

    /// The next bytes; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `Unavailable` when the connection was lost, or nothing has arrived for too long.
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
        // What has arrived while the reader did something else takes a moment to get here.
        let end = (self.last + limit).max(Instant::now() + MOMENT);
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

    /// The next frame. Dropping the future loses nothing.
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
    /// One that nobody closes.
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

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::client::tests::{endless, slow};

    #[tokio::test(start_paused = true)]
    async fn log_without_data_fails_and_one_with_data_goes_on() {
        let client = slow(|_, _| async { (200, endless(vec!["line\n".to_owned()])) });
        let mut body = client.open_log("p", &[("follow", "true".to_owned())]).await.unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "line\n");
        let begun = Instant::now();
        // A reader that looks at something else again and again.
        let error = loop {
            match tokio::time::timeout(MOMENT * 2, body.data()).await {
                Ok(read) => break read.unwrap_err(),
                Err(_) => assert!(begun.elapsed() < Duration::from_secs(600), "it is silent"),
            }
        };
        assert!(error.is_retryable(), "{error:?}");
        assert!(begun.elapsed() >= Duration::from_secs(60), "{:?}", begun.elapsed());
    }
}
