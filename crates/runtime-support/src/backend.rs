//! The [`Backend`] trait, and [`Runtime`](runtime_core::Runtime) and
//! [`Container`](runtime_core::Container) over it.
//!
//! A backend implements each operation for its engine. [`Connected`] and [`Handle`] implement the
//! common parts: they validate the caller's input, refuse operations that the engine does not
//! support, apply the deadline of the operation, cancel it when the runtime is closed, open its
//! span, and add the operation, the backend and the container to its error.

mod call;
mod connected;
mod handle;

use std::fmt;
use std::sync::Arc;

use runtime_core::{
    AttachOptions, ByteStream, Capabilities, ContainerId, ContainerInfo, ContainerStats, Deadlines,
    Error, ErrorKind, EventStream, EventsOptions, ExecOptions, Exit, Health, ImageRef, LabelFilter,
    LogOptions, LogReader, Operation, PreparedSpec, PullPolicy, PullStream, RawLogs, ReapOptions,
    ReapReport, RegistryAuth, Result, Scope, Session, Signal, StartOutcome, StatsOptions,
    StatsStream, StopOptions, StopOutcome,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::HalfMade;

pub use self::connected::Connected;
pub use self::handle::Handle;

/// Plain data that identifies a container at its engine.
pub trait ContainerRef: fmt::Debug + Clone + Send + Sync + 'static {
    /// Returns the engine's id.
    fn id(&self) -> &ContainerId;

    /// Returns the name.
    fn name(&self) -> &str;
}

/// State that all operations of a connection share.
#[derive(Debug)]
#[non_exhaustive]
pub struct Context {
    /// Scope of the connection.
    pub scope: Scope,
    /// Deadlines of the operations, each shorter than ten years.
    pub deadlines: Deadlines,
    /// Capabilities of the engine.
    pub capabilities: Capabilities,
    /// Cancelled when the runtime is closed. After that, no operation starts, and waiting
    /// operations end.
    pub closed: CancellationToken,
    /// Background cleanup of cancelled operations. It completes before the connection closes.
    pub half_made: HalfMade,
}

impl Context {
    /// Creates the context of a new connection.
    #[must_use]
    pub fn new(scope: Scope, deadlines: Deadlines, capabilities: Capabilities) -> Self {
        Self {
            scope,
            deadlines: deadlines.bounded(),
            capabilities,
            closed: CancellationToken::new(),
            half_made: HalfMade::default(),
        }
    }

    /// Runs `work` until the runtime is closed. A result that is ready takes precedence over the
    /// close, because a container that was created must not be lost.
    ///
    /// # Errors
    /// The errors of `work`; [`closed`] if the runtime is closed before or during `work`.
    pub async fn unless_closed<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        if self.closed.is_cancelled() {
            return Err(closed());
        }
        tokio::select! {
            biased;
            done = work => done,
            () = self.closed.cancelled() => Err(closed()),
        }
    }

    /// Runs `work` to completion, even if the caller drops the returned future.
    ///
    /// # Errors
    /// The errors of `work`; [`closed`] if the runtime is closed during `work`; `Internal` if
    /// `work` panics.
    pub async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = self.half_made.spawn(work);
        self.unless_closed(async {
            task.await.unwrap_or_else(|error| {
                Err(Error::internal("the task of the operation panicked").with_source(error))
            })
        })
        .await
    }
}

/// Returns the error of calls on a closed runtime.
#[must_use]
pub fn closed() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the runtime was closed")
}

/// A connection to an engine of one kind.
///
/// The methods have the contracts of the methods of [`Runtime`](runtime_core::Runtime) and
/// [`Container`](runtime_core::Container) with the same names, except for the parts that
/// [`Connected`] and [`Handle`] implement (see the [module](self)): options are already validated,
/// specs are prepared, and capabilities required for a whole operation are present.
///
/// Methods that return a stream or spawn a task take the [`Arc`] around the backend, because its
/// clone keeps the connection open for the lifetime of the stream or the task.
pub trait Backend: fmt::Debug + Send + Sync + Sized + 'static {
    /// Name of the backend, returned by [`Runtime::backend`](runtime_core::Runtime::backend).
    const NAME: &'static str;

    /// Identity of a container of this engine.
    type Container: ContainerRef;

    /// Returns the state that all operations share.
    fn context(&self) -> &Context;

    /// Returns a more specific error for a failed operation if the backend has one, for example the
    /// reason why there was no response. `started` is the start time of the operation.
    fn explain(
        &self,
        operation: Operation,
        container: Option<&Self::Container>,
        started: Instant,
        error: Error,
    ) -> Error {
        let _ = (operation, container, started);
        error
    }

    /// Requests the identity of the engine.
    fn health(self: &Arc<Self>) -> impl Future<Output = Result<Health>> + Send;

    /// Starts to pull an image. Called only with the capability `pull_image`.
    fn pull(
        self: &Arc<Self>,
        image: ImageRef,
        auth: Option<RegistryAuth>,
        policy: PullPolicy,
    ) -> impl Future<Output = Result<PullStream>> + Send;

    /// Creates a complete container or nothing, even if the future is dropped. The caller applies
    /// no deadline, because a create may include a pull.
    fn create(
        self: &Arc<Self>,
        spec: PreparedSpec,
    ) -> impl Future<Output = Result<Self::Container>> + Send;

    /// Finds a container of the scope by its id.
    fn find(
        self: &Arc<Self>,
        id: &ContainerId,
    ) -> impl Future<Output = Result<Self::Container>> + Send;

    /// Lists the containers of the scope with these labels. The caller sorts the list with a stable
    /// sort.
    fn list(
        self: &Arc<Self>,
        labels: &LabelFilter,
    ) -> impl Future<Output = Result<Vec<(Self::Container, ContainerInfo)>>> + Send;

    /// Takes one sample of each of several containers. Called only with the capability
    /// `bulk_stats`. The backend applies the deadlines, because the duration depends on the number of
    /// containers.
    fn stats_of(
        self: &Arc<Self>,
        containers: &[ContainerId],
    ) -> impl Future<Output = Result<Vec<(ContainerId, ContainerStats)>>> + Send;

    /// Opens a stream of events. `since` is set only with the capability `events_since`.
    fn events(
        self: &Arc<Self>,
        options: EventsOptions,
    ) -> impl Future<Output = Result<EventStream>> + Send;

    /// Removes the containers of the scope.
    fn reap(
        self: &Arc<Self>,
        options: ReapOptions,
    ) -> impl Future<Output = Result<ReapReport>> + Send;

    /// Closes the connections and ends the tasks. Called after the background cleanup has
    /// completed.
    fn close(self: &Arc<Self>) -> impl Future<Output = Result<()>> + Send;

    /// Starts a container.
    fn start(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<StartOutcome>> + Send;

    /// Returns the current state of a container.
    fn info(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<ContainerInfo>> + Send;

    /// Waits for the exit of a container.
    fn wait(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<Exit>> + Send;

    /// Opens the log of a container. Called only with the capability `logs`.
    fn logs(
        self: &Arc<Self>,
        container: &Self::Container,
        options: LogOptions,
    ) -> impl Future<Output = Result<LogReader>> + Send;

    /// Opens the log of a container without timestamps.
    fn raw_logs(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<RawLogs>> + Send {
        async { Ok(self.logs(container, LogOptions::default()).await?.into_raw()) }
    }

    /// Takes one sample of a container.
    fn stats_once(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<ContainerStats>> + Send;

    /// Streams samples of a container.
    fn stats(
        self: &Arc<Self>,
        container: &Self::Container,
        options: StatsOptions,
    ) -> impl Future<Output = Result<StatsStream>> + Send;

    /// Stops a container. The backend applies the deadline: the grace period plus `stop_margin`,
    /// because only the backend has the grace period of the spec.
    fn stop(
        self: &Arc<Self>,
        container: &Self::Container,
        options: StopOptions,
    ) -> impl Future<Output = Result<StopOutcome>> + Send;

    /// Sends a signal to a container. Called only with the capability `kill`.
    fn kill(
        self: &Arc<Self>,
        container: &Self::Container,
        signal: Signal,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Removes a container.
    fn remove(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Runs a command in a container.
    fn exec(
        self: &Arc<Self>,
        container: &Self::Container,
        options: ExecOptions,
    ) -> impl Future<Output = Result<Session>> + Send;

    /// Attaches to the main process of a container.
    fn attach(
        self: &Arc<Self>,
        container: &Self::Container,
        options: AttachOptions,
    ) -> impl Future<Output = Result<Session>> + Send;

    /// Unpacks a tar stream into a directory of a container.
    fn copy_in(
        self: &Arc<Self>,
        container: &Self::Container,
        path: &str,
        content: ByteStream,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Packs a file or a directory of a container into a tar stream.
    fn copy_out(
        self: &Arc<Self>,
        container: &Self::Container,
        path: &str,
    ) -> impl Future<Output = Result<ByteStream>> + Send;
}

/// Implements [`Runtime`](runtime_core::Runtime) for the public type of a backend by delegation to
/// a [`Connected`] in its field `inner`.
#[macro_export]
macro_rules! delegate_runtime {
    ($type:ty) => {
        #[::runtime_core::async_trait]
        impl ::runtime_core::Runtime for $type {
            fn backend(&self) -> &'static str {
                ::runtime_core::Runtime::backend(&self.inner)
            }

            fn scope(&self) -> &::runtime_core::Scope {
                ::runtime_core::Runtime::scope(&self.inner)
            }

            fn capabilities(&self) -> &::runtime_core::Capabilities {
                ::runtime_core::Runtime::capabilities(&self.inner)
            }

            async fn health(&self) -> ::runtime_core::Result<::runtime_core::Health> {
                ::runtime_core::Runtime::health(&self.inner).await
            }

            async fn pull_image(
                &self,
                image: &::runtime_core::Image,
                options: ::runtime_core::PullOptions,
            ) -> ::runtime_core::Result<::runtime_core::PullStream> {
                ::runtime_core::Runtime::pull_image(&self.inner, image, options).await
            }

            async fn create_container(
                &self,
                spec: &::runtime_core::ContainerSpec,
            ) -> ::runtime_core::Result<::std::sync::Arc<dyn ::runtime_core::Container>> {
                ::runtime_core::Runtime::create_container(&self.inner, spec).await
            }

            async fn container(
                &self,
                id: &::runtime_core::ContainerId,
            ) -> ::runtime_core::Result<::std::sync::Arc<dyn ::runtime_core::Container>> {
                ::runtime_core::Runtime::container(&self.inner, id).await
            }

            async fn list_containers(
                &self,
                options: ::runtime_core::ListOptions,
            ) -> ::runtime_core::Result<::std::vec::Vec<::runtime_core::Listed>> {
                ::runtime_core::Runtime::list_containers(&self.inner, options).await
            }

            async fn stats(
                &self,
                containers: &[::runtime_core::ContainerId],
            ) -> ::runtime_core::Result<
                ::std::vec::Vec<(::runtime_core::ContainerId, ::runtime_core::ContainerStats)>,
            > {
                ::runtime_core::Runtime::stats(&self.inner, containers).await
            }

            async fn events(
                &self,
                options: ::runtime_core::EventsOptions,
            ) -> ::runtime_core::Result<::runtime_core::EventStream> {
                ::runtime_core::Runtime::events(&self.inner, options).await
            }

            async fn reap(
                &self,
                options: ::runtime_core::ReapOptions,
            ) -> ::runtime_core::Result<::runtime_core::ReapReport> {
                ::runtime_core::Runtime::reap(&self.inner, options).await
            }

            async fn close(&self) -> ::runtime_core::Result<()> {
                ::runtime_core::Runtime::close(&self.inner).await
            }
        }
    };
}
