//! A connected engine.

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

/// How a pull goes. It ends after [`PullEvent::Done`] or after the first error; a stream that ends
/// without either does not happen. Dropping it cancels the pull where the engine allows.
pub type PullStream = Pin<Box<dyn Stream<Item = Result<PullEvent>> + Send>>;

/// What happens to containers. It has no end of its own, and ends after the first error.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event>> + Send>>;

/// A connection to one engine, for one scope. Clones of the `Arc` around it share all it has;
/// dropping the last one closes its connections and ends its tasks.
///
/// It may be used from several executors, and all that it gives may be dropped anywhere. When an
/// executor ends, the streams and sessions that were opened on it end with it; connections and tasks of
/// the runtime itself are begun again on the executor of the next call.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// The backend: `docker`, `cri`, `kubernetes`.
    fn backend(&self) -> &'static str;

    /// Whose containers it makes and sees.
    fn scope(&self) -> &Scope;

    /// What the engine can do, as it said when it was connected.
    fn capabilities(&self) -> &Capabilities;

    /// Asks the engine whether it is there, and who it is.
    ///
    /// # Errors
    /// `Unavailable` when it is not there, or is no engine.
    async fn health(&self) -> Result<Health>;

    /// Pulls an image. Two pulls of one image at once both succeed.
    ///
    /// # Errors
    /// `InvalidArgument` naming `image`; `ImageNotFound` when the registry does not have it, or
    /// the engine does not and the policy is `never`; `Unauthenticated` or `PermissionDenied` when
    /// the registry refuses the login; `Unavailable` when the registry cannot be reached.
    /// Registries answer alike for images that are not there and images that one may not see:
    /// such an answer is `ImageNotFound` with a login and `Unauthenticated` without.
    async fn pull_image(&self, image: &Image, options: PullOptions) -> Result<PullStream>;

    /// Creates a container and does not start it. It makes a complete container or nothing, also
    /// when the future is dropped.
    ///
    /// The image is pulled by the spec's [`PullPolicy`](crate::PullPolicy) where the engine has
    /// `pull_image`; with `deferred_pull` that happens at the start, and its failure is an error of
    /// [`start`](Container::start) and the exit that [`wait`](Container::wait) returns.
    ///
    /// # Errors
    /// `InvalidArgument` or `Unsupported` naming the field, before the engine is asked for
    /// anything; `AlreadyExists` when the name is taken; those of
    /// [`pull_image`](Self::pull_image).
    async fn create_container(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>>;

    /// A handle for a container of this scope that was made before, by this process or another.
    ///
    /// # Errors
    /// `NotFound` when the scope has no such container.
    async fn container(&self, id: &ContainerId) -> Result<Arc<dyn Container>>;

    /// The containers of this scope, in whatever state, in one call to the engine. The newest come
    /// first, as far as the engine tells their times apart.
    ///
    /// # Errors
    /// What holds for all methods.
    async fn list_containers(&self, options: ListOptions) -> Result<Vec<Listed>>;

    /// What these containers use now, measured together. Those that are gone or do not run are
    /// left out.
    ///
    /// # Errors
    /// `Unsupported` without the capability `bulk_stats`.
    async fn stats(&self, containers: &[ContainerId])
    -> Result<Vec<(ContainerId, ContainerStats)>>;

    /// What happens to the containers of this scope from now on, resumed after a lost connection.
    ///
    /// # Errors
    /// Failures of the open come here, later ones as the last item.
    async fn events(&self, options: EventsOptions) -> Result<EventStream>;

    /// Removes what this scope left behind: containers in whatever state, and what belongs to
    /// them. The report says what could not be removed.
    ///
    /// # Errors
    /// When it could not be found out what there is.
    async fn reap(&self, options: ReapOptions) -> Result<ReapReport>;

    /// Closes the connections and ends the tasks of this runtime. Calls on it or its containers
    /// afterwards are `InvalidState`; those under way end with that. Closing twice is no error.
    /// Nothing changes at the engine, but that a create which nobody waits for any more is undone
    /// first: that is waited for, for as long as a removal may take.
    ///
    /// # Errors
    /// None today; a backend that has something to flush may fail to.
    async fn close(&self) -> Result<()>;
}

/// What can be said in terms of [`Runtime`] alone.
#[async_trait]
pub trait RuntimeExt: Runtime {
    /// Pulls an image to the end and throws the progress away.
    ///
    /// # Errors
    /// Those of [`pull_image`](Runtime::pull_image), at the open or later.
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
