//! [`Container`] over a [`Backend`].

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use runtime_core::{
    AttachOptions, ByteStream, Capability, Container, ContainerId, ContainerInfo, ContainerStats,
    CopyInOptions, CopyOutOptions, ExecOptions, Exit, LogOptions, LogReader, Operation, RawLogs,
    Result, ResultExt as _, Session, Signal, StartOutcome, StatsOptions, StatsStream, StopOptions,
    StopOutcome,
};

use super::call::call;
use super::{Backend, ContainerRef as _};
use crate::{check_exec, check_path};

/// A handle for a container: implements [`Container`] over a [`Backend`].
pub struct Handle<B: Backend> {
    backend: Arc<B>,
    container: B::Container,
}

impl<B: Backend> fmt::Debug for Handle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.container).finish()
    }
}

impl<B: Backend> Clone for Handle<B> {
    fn clone(&self) -> Self {
        Self::new(&self.backend, self.container.clone())
    }
}

impl<B: Backend> Handle<B> {
    /// Returns a handle for a container of a backend that is connected. A backend needs one where it
    /// calls a helper that takes a [`Container`].
    #[must_use]
    pub fn new(backend: &Arc<B>, container: B::Container) -> Self {
        Self { backend: Arc::clone(backend), container }
    }

    /// Runs an operation and adds the container to its error.
    fn call<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        work: impl Future<Output = Result<T>> + Send + 'a,
    ) -> impl Future<Output = Result<T>> + Send + 'a {
        let work = work.boxed();
        async move {
            let span = tracing::debug_span!(
                "container",
                backend = B::NAME,
                operation = operation.as_str(),
                container = %self.id()
            );
            let done = call(&self.backend, operation, Some(&self.container), &span, work).await;
            done.about(self.id())
        }
    }

    fn require(&self, capability: Capability) -> Result<()> {
        self.backend.context().capabilities.require(capability)
    }
}

#[async_trait]
impl<B: Backend> Container for Handle<B> {
    fn id(&self) -> &ContainerId {
        self.container.id()
    }

    fn name(&self) -> &str {
        self.container.name()
    }

    async fn start(&self) -> Result<StartOutcome> {
        self.call(Operation::Start, self.backend.start(&self.container)).await
    }

    async fn info(&self) -> Result<ContainerInfo> {
        self.call(Operation::Info, self.backend.info(&self.container)).await
    }

    async fn wait(&self) -> Result<Exit> {
        self.call(Operation::Wait, self.backend.wait(&self.container)).await
    }

    async fn logs(&self, options: LogOptions) -> Result<LogReader> {
        let work = async {
            options.check()?;
            self.require(Capability::Logs)?;
            self.backend.logs(&self.container, options).await
        };
        self.call(Operation::Logs, work).await
    }

    async fn raw_logs(&self) -> Result<RawLogs> {
        let work = async {
            self.require(Capability::Logs)?;
            self.backend.raw_logs(&self.container).await
        };
        self.call(Operation::Logs, work).await
    }

    async fn stats_once(&self) -> Result<ContainerStats> {
        self.call(Operation::Stats, self.backend.stats_once(&self.container)).await
    }

    async fn stats(&self, options: StatsOptions) -> Result<StatsStream> {
        let work = async {
            options.check()?;
            self.backend.stats(&self.container, options).await
        };
        self.call(Operation::Stats, work).await
    }

    async fn stop(&self, options: StopOptions) -> Result<StopOutcome> {
        self.call(Operation::Stop, self.backend.stop(&self.container, options)).await
    }

    async fn kill(&self, signal: Signal) -> Result<()> {
        let work = async {
            self.require(Capability::Kill)?;
            self.backend.kill(&self.container, signal).await
        };
        self.call(Operation::Kill, work).await
    }

    async fn remove(&self) -> Result<()> {
        self.call(Operation::Remove, self.backend.remove(&self.container)).await
    }

    async fn exec(&self, options: ExecOptions) -> Result<Session> {
        let work = async {
            check_exec(&options)?;
            self.backend.exec(&self.container, options).await
        };
        self.call(Operation::Exec, work).await
    }

    async fn attach(&self, options: AttachOptions) -> Result<Session> {
        self.call(Operation::Attach, self.backend.attach(&self.container, options)).await
    }

    async fn copy_in(
        &self,
        path: &str,
        content: ByteStream,
        CopyInOptions { .. }: CopyInOptions,
    ) -> Result<()> {
        let work = async {
            check_path(path)?;
            self.backend.copy_in(&self.container, path, content).await
        };
        self.call(Operation::CopyIn, work).await
    }

    async fn copy_out(
        &self,
        path: &str,
        CopyOutOptions { .. }: CopyOutOptions,
    ) -> Result<ByteStream> {
        let work = async {
            check_path(path)?;
            self.backend.copy_out(&self.container, path).await
        };
        self.call(Operation::CopyOut, work).await
    }
}
