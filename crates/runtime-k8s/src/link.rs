//! The connections of a client, and how they are closed while somebody still holds what they give.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use kube::client::Body;
use runtime_core::{Error, ErrorKind, Result};

use crate::error;

/// What is open, or nothing once it was closed.
pub(crate) struct Link {
    client: Mutex<Option<kube::Client>>,
    bodies: Mutex<Vec<Weak<Slot>>>,
}

type Slot = Mutex<Option<Body>>;

/// A body that comes as long as it is read. Dropping it closes its connection.
pub(crate) struct OpenBody {
    slot: Arc<Slot>,
}

impl Link {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client: Mutex::new(Some(client)), bodies: Mutex::default() }
    }

    /// The client.
    ///
    /// # Errors
    /// `InvalidState` once it was closed.
    pub(crate) fn client(&self) -> Result<kube::Client> {
        lock(&self.client).clone().ok_or_else(closed)
    }

    /// Takes a body that is closed with the rest.
    pub(crate) fn hold(&self, body: Body) -> OpenBody {
        let slot = Arc::new(Mutex::new(Some(body)));
        let mut bodies = lock(&self.bodies);
        bodies.retain(|slot| slot.strong_count() > 0);
        bodies.push(Arc::downgrade(&slot));
        drop(bodies);
        if lock(&self.client).is_none() {
            lock(&slot).take();
        }
        OpenBody { slot }
    }

    /// Drops the client, with the connections that it keeps, and every body.
    pub(crate) fn close(&self) {
        lock(&self.client).take();
        for slot in lock(&self.bodies).drain(..) {
            if let Some(slot) = slot.upgrade() {
                lock(&slot).take();
            }
        }
    }
}

impl OpenBody {
    /// The next frame. Dropping the future loses nothing.
    pub(crate) async fn frame(&mut self) -> Option<Result<Frame<Bytes>>> {
        poll_fn(|cx| match lock(&self.slot).as_mut() {
            Some(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| Some(frame?.map_err(error::from_client)))
            }
            None => Poll::Ready(Some(Err(closed()))),
        })
        .await
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
