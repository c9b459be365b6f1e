//! The connections of a client, and how they are closed while somebody still holds what they give.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use kube::client::Body;
use runtime_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::error;

/// The ways to the server.
#[derive(Clone)]
pub(crate) struct Clients {
    /// For everything.
    pub(crate) all: kube::Client,
    /// For answers that are long, where there is another way for them.
    pub(crate) long: Option<kube::Client>,
}

/// What is open, or nothing once it was closed.
pub(crate) struct Link {
    clients: Mutex<Option<Clients>>,
    bodies: Mutex<Vec<Weak<Slot>>>,
    /// When a connection was last lost.
    lost: Arc<Mutex<Option<Instant>>>,
}

type Slot = Mutex<Option<Body>>;

/// A body that comes as long as it is read. Dropping it closes its connection.
pub(crate) struct OpenBody {
    slot: Arc<Slot>,
    lost: Arc<Mutex<Option<Instant>>>,
}

impl Link {
    pub(crate) fn new(clients: Clients) -> Self {
        Self { clients: Mutex::new(Some(clients)), bodies: Mutex::default(), lost: Arc::default() }
    }

    /// The clients.
    ///
    /// # Errors
    /// `InvalidState` once they were closed.
    pub(crate) fn clients(&self) -> Result<Clients> {
        lock(&self.clients).clone().ok_or_else(closed)
    }

    /// Long answers go the way of all others from now on.
    pub(crate) fn forget_long(&self) {
        if let Some(clients) = &mut *lock(&self.clients) {
            clients.long = None;
        }
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
        OpenBody { slot, lost: Arc::clone(&self.lost) }
    }

    /// A connection was lost.
    pub(crate) fn lost(&self) {
        *lock(&self.lost) = Some(Instant::now());
    }

    /// Whether a connection was lost so short a time ago.
    pub(crate) fn was_lost(&self, within: Duration) -> bool {
        lock(&self.lost).is_some_and(|lost| lost.elapsed() < within)
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
    /// The next bytes; `None` at the end. Dropping the future loses nothing.
    pub(crate) async fn data(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The next frame. Dropping the future loses nothing.
    async fn frame(&mut self) -> Option<Result<Frame<Bytes>>> {
        poll_fn(|cx| match lock(&self.slot).as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx).map(|frame| {
                Some(frame?.map_err(|source| {
                    *lock(&self.lost) = Some(Instant::now());
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
        Self { slot: Arc::new(Mutex::new(Some(body))), lost: Arc::default() }
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
