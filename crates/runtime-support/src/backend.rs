//! What a backend implements, and [`Runtime`](runtime_core::Runtime) and
//! [`Container`](runtime_core::Container) over it.
//!
//! A backend says how each operation is done on its engine. [`Connected`] and [`Handle`] do what is
//! the same everywhere: they check what the caller gives, refuse what the engine cannot do, keep the
//! deadline of the operation, end it when the runtime is closed, open its span, and add the
//! operation, the backend and the container to its error.

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

/// What a backend knows of a container without asking the engine: how to name it there.
pub trait ContainerRef: fmt::Debug + Clone + Send + Sync + 'static {
    /// The engine's id.
    fn id(&self) -> &ContainerId;

    /// The name.
    fn name(&self) -> &str;
}

/// What all operations of a connection need.
#[derive(Debug)]
#[non_exhaustive]
pub struct Context {
    /// Whose containers are made and seen.
    pub scope: Scope,
    /// How long the operations may take, each shorter than ten years.
    pub deadlines: Deadlines,
    /// What the engine can do.
    pub capabilities: Capabilities,
    /// Cancelled when the runtime is closed: nothing begins after that, and what waits ends.
    pub closed: CancellationToken,
    /// What goes on when nobody waits for it any more. It is done before the connection closes.
    pub half_made: HalfMade,
}

impl Context {
    /// Returns the context of a new connection.
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

    /// Does `work` until the runtime is closed. What is ready counts for more: a container that was
    /// created belongs to somebody.
    ///
    /// # Errors
    /// Those of `work`; [`closed`] when the runtime is closed before or meanwhile.
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

    /// Does `work` to its end, also when the caller drops the future.
    ///
    /// # Errors
    /// Those of `work`; [`closed`] when the runtime is closed meanwhile; `Internal` when `work`
    /// panics.
    pub async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let task = self.half_made.spawn(work);
        self.unless_closed(async {
            task.await.unwrap_or_else(|error| {
                Err(Error::internal("the operation broke off").with_source(error))
            })
        })
        .await
    }
}

/// Returns the error of every call on a runtime that was closed.
#[must_use]
pub fn closed() -> Error {
    Error::new(ErrorKind::InvalidState).with_message("the runtime was closed")
}

/// An engine of one kind, as a connection to it sees it.
///
/// The methods have the contracts of the methods of [`Runtime`](runtime_core::Runtime) and
/// [`Container`](runtime_core::Container) with the same names, with one difference: what
/// [`Connected`] and [`Handle`] do need not be done here (see the [module](self)). So options were
/// checked, a spec was prepared, and a capability that a whole operation needs is there.
///
/// Those that give a stream or begin a task take the [`Arc`] around the backend: its clone keeps the
/// connection open for as long as the stream or the task lives.
pub trait Backend: fmt::Debug + Send + Sync + Sized + 'static {
    /// What [`Runtime::backend`](runtime_core::Runtime::backend) returns.
    const NAME: &'static str;

    /// A container of this engine.
    type Container: ContainerRef;

    /// Returns what all operations need.
    fn context(&self) -> &Context;

    /// Returns a better error for an operation that failed, where the backend knows one: why there was
    /// no answer, for example. `begun` is when the operation began.
    fn explain(
        &self,
        operation: Operation,
        container: Option<&Self::Container>,
        begun: Instant,
        error: Error,
    ) -> Error {
        let _ = (operation, container, begun);
        error
    }

    /// Asks the engine who it is.
    fn health(self: &Arc<Self>) -> impl Future<Output = Result<Health>> + Send;

    /// Begins to pull an image. It is called with the capability `pull_image` only.
    fn pull(
        self: &Arc<Self>,
        image: ImageRef,
        auth: Option<RegistryAuth>,
        policy: PullPolicy,
    ) -> impl Future<Output = Result<PullStream>> + Send;

    /// Creates a container: the whole of it or nothing, also when the future is dropped. It has no
    /// deadline of its own, because a pull may be a part of it.
    fn create(
        self: &Arc<Self>,
        spec: PreparedSpec,
    ) -> impl Future<Output = Result<Self::Container>> + Send;

    /// Finds a container of the scope.
    fn find(
        self: &Arc<Self>,
        id: &ContainerId,
    ) -> impl Future<Output = Result<Self::Container>> + Send;

    /// Lists the containers of the scope that have these labels, in any order. Those of one time stay
    /// in it.
    fn list(
        self: &Arc<Self>,
        labels: &LabelFilter,
    ) -> impl Future<Output = Result<Vec<(Self::Container, ContainerInfo)>>> + Send;

    /// Measures several containers at once. It is called with the capability `bulk_stats` only.
    fn stats_of(
        self: &Arc<Self>,
        containers: &[ContainerId],
    ) -> impl Future<Output = Result<Vec<(ContainerId, ContainerStats)>>> + Send;

    /// Opens a stream of events. `since` is there with the capability `events_since` only.
    fn events(
        self: &Arc<Self>,
        options: EventsOptions,
    ) -> impl Future<Output = Result<EventStream>> + Send;

    /// Removes what the scope has left behind.
    fn reap(
        self: &Arc<Self>,
        options: ReapOptions,
    ) -> impl Future<Output = Result<ReapReport>> + Send;

    /// Closes the connections and ends the tasks, after everything that was half made is done or
    /// undone.
    fn close(self: &Arc<Self>) -> impl Future<Output = Result<()>> + Send;

    /// Starts a container.
    fn start(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<StartOutcome>> + Send;

    /// Returns what the engine knows of a container.
    fn info(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<ContainerInfo>> + Send;

    /// Waits for the end of a container.
    fn wait(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<Exit>> + Send;

    /// Opens the log of a container. It is called with the capability `logs` only.
    fn logs(
        self: &Arc<Self>,
        container: &Self::Container,
        options: LogOptions,
    ) -> impl Future<Output = Result<LogReader>> + Send;

    /// Opens the log of a container without the times of its lines.
    fn raw_logs(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<RawLogs>> + Send {
        async { Ok(self.logs(container, LogOptions::default()).await?.into_raw()) }
    }

    /// Measures a container once.
    fn stats_once(
        self: &Arc<Self>,
        container: &Self::Container,
    ) -> impl Future<Output = Result<ContainerStats>> + Send;

    /// Measures a container again and again.
    fn stats(
        self: &Arc<Self>,
        container: &Self::Container,
        options: StatsOptions,
    ) -> impl Future<Output = Result<StatsStream>> + Send;

    /// Stops a container. The deadline is kept here: it is `stop_margin` after the grace, which the
    /// backend knows.
    fn stop(
        self: &Arc<Self>,
        container: &Self::Container,
        options: StopOptions,
    ) -> impl Future<Output = Result<StopOutcome>> + Send;

    /// Sends a signal to a container. It is called with the capability `kill` only.
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

    /// Unpacks a tar stream in a container.
    fn copy_in(
        self: &Arc<Self>,
        container: &Self::Container,
        path: &str,
        content: ByteStream,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Packs a file or a directory of a container.
    fn copy_out(
        self: &Arc<Self>,
        container: &Self::Container,
        path: &str,
    ) -> impl Future<Output = Result<ByteStream>> + Send;
}

/// Implements [`Runtime`](runtime_core::Runtime) for the public type of a backend, which has a
/// [`Connected`] in its field `inner`.
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
