//! The [`Runtime`] trait: a connection to an engine.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_core::Stream;

use crate::{
    Capabilities, Container, ContainerId, ContainerSpec, ContainerStats, Error, Event,
    EventsOptions, Health, Image, ListOptions, Listed, PullEvent, PullOptions, PullSummary,
    ReapOptions, ReapReport, Result, Scope,
};

/// Progress of a pull. The stream ends after [`PullEvent::Done`] or after the first error, never
/// without either. Dropping the stream cancels the pull if the engine supports that.
pub type PullStream = Pin<Box<dyn Stream<Item = Result<PullEvent>> + Send>>;

/// Events of containers. The stream ends only after the first error.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event>> + Send>>;

/// A connection to one engine, for one scope.
///
/// Clones of the surrounding `Arc` share all connections and tasks; dropping the last clone closes
/// the connections and ends the tasks.
///
/// A runtime may be used from several executors, and everything that it returns may be dropped on
/// any thread. When an executor shuts down, the streams and sessions that were opened on it end;
/// the connections and tasks of the runtime itself are started again on the executor of the next
/// call.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// Returns the name of the backend: `docker`, `cri` or `kubernetes`.
    fn backend(&self) -> &'static str;

    /// Returns the scope of this connection. Only containers of this scope are created and visible.
    fn scope(&self) -> &Scope;

    /// Returns the capabilities of the engine, as determined when the connection was opened.
    fn capabilities(&self) -> &Capabilities;

    /// Checks that the engine is reachable and returns its identity, version and capabilities.
    ///
    /// # Errors
    /// `Unavailable` if the engine is unreachable, or if the peer is not an engine.
    async fn health(&self) -> Result<Health>;

    /// Pulls an image. Concurrent pulls of the same image all succeed.
    ///
    /// # Errors
    /// `InvalidArgument` naming `image`; `ImageNotFound` if the registry does not have the image,
    /// or if the engine does not have it and the policy is `never`; `Unauthenticated` or
    /// `PermissionDenied` if the registry refuses the credentials; `Unavailable` if the registry is
    /// unreachable. Registries return the same response for a missing image and for an image that
    /// the user may not read: that response is `ImageNotFound` with credentials and
    /// `Unauthenticated` without.
    async fn pull_image(&self, image: &Image, options: PullOptions) -> Result<PullStream>;

    /// Creates a container without starting it. The result is a complete container or nothing, even
    /// if the future is dropped.
    ///
    /// The image is pulled according to the spec's [`PullPolicy`](crate::PullPolicy) if the engine
    /// has the capability `pull_image`. With `deferred_pull` the pull is part of the start: a
    /// failed pull is then an error of [`start`](Container::start) and the exit returned by
    /// [`wait`](Container::wait).
    ///
    /// # Errors
    /// `InvalidArgument` or `Unsupported` naming the field, before any request is sent;
    /// `AlreadyExists` if the name is taken; all errors of [`pull_image`](Self::pull_image).
    async fn create_container(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>>;

    /// Returns a handle for an existing container of this scope, created by this or another
    /// process.
    ///
    /// # Errors
    /// `NotFound` if the scope has no container with this id.
    async fn container(&self, id: &ContainerId) -> Result<Arc<dyn Container>>;

    /// Lists the containers of this scope in every state, with one request to the engine. Newer
    /// containers are first, at the resolution of the engine's creation times.
    ///
    /// # Errors
    /// Only the errors common to all methods.
    async fn list_containers(&self, options: ListOptions) -> Result<Vec<Listed>>;

    /// Returns one sample for each of `containers`, measured together. Containers that do not exist
    /// or do not run are left out.
    ///
    /// # Errors
    /// `Unsupported` without the capability `bulk_stats`.
    async fn stats(&self, containers: &[ContainerId])
    -> Result<Vec<(ContainerId, ContainerStats)>>;

    /// Streams the events of this scope from now on, or from [`EventsOptions::since`]. After a lost
    /// connection the stream resumes.
    ///
    /// # Errors
    /// A failure to open the stream is returned here; a later failure is the last item of the
    /// stream.
    async fn events(&self, options: EventsOptions) -> Result<EventStream>;

    /// Removes the containers of this scope in every state, with the resources that belong to them.
    /// The report lists the containers that could not be removed.
    ///
    /// # Errors
    /// Returned only if the containers of the scope could not be listed.
    async fn reap(&self, options: ReapOptions) -> Result<ReapReport>;

    /// Closes the connections and ends the tasks of this runtime. Closing twice is a no-op.
    ///
    /// Later calls on the runtime or its containers fail with `InvalidState`; calls in progress end
    /// with the same error. Containers are not affected, except that cancelled creates are undone
    /// first: `close` waits for this cleanup, at most for the deadline of a removal.
    ///
    /// # Errors
    /// None from the current backends. A backend that flushes state may return an error.
    async fn close(&self) -> Result<()>;
}

/// Convenience methods for every [`Runtime`].
#[async_trait]
pub trait RuntimeExt: Runtime {
    /// Pulls an image to completion and discards the progress.
    ///
    /// # Errors
    /// All errors of [`pull_image`](Runtime::pull_image), from opening the stream or later.
    async fn pull(&self, image: &Image, options: PullOptions) -> Result<PullSummary> {
        let mut events = self.pull_image(image, options).await?;
        while let Some(event) = std::future::poll_fn(|cx| events.as_mut().poll_next(cx)).await {
            if let PullEvent::Done(summary) = event? {
                return Ok(summary);
            }
        }
        Err(Error::internal("the pull ended without an outcome").on(self.backend()))
    }
}

impl<R: Runtime + ?Sized> RuntimeExt for R {}
