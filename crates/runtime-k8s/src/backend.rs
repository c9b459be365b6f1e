//! Implements the operations of the backend.

use std::sync::Arc;

use runtime_core::{
    AttachOptions, ByteStream, ContainerId, ContainerInfo, ContainerStats, Error, ErrorKind,
    EventStream, EventsOptions, ExecOptions, Exit, Health, ImageRef, LabelFilter, LogOptions,
    LogReader, Operation, PreparedSpec, PullPolicy, PullStream, RawLogs, ReapOptions, ReapReport,
    RegistryAuth, Result, Session, Signal, StartOutcome, StatsOptions, StatsStream, StopOptions,
    StopOutcome,
};
use runtime_support::backend::{Backend, Context};
use tokio::time::Instant;

use crate::error::BACKEND;
use crate::model::container::KubernetesContainer;
use crate::ops;
use crate::state::KubernetesBackend;

impl Backend for KubernetesBackend {
    const NAME: &'static str = BACKEND;

    type Container = KubernetesContainer;

    fn context(&self) -> &Context {
        &self.context
    }

    /// Replaces a timeout by its reason: the server is unreachable, or the start is pending.
    fn explain(
        &self,
        operation: Operation,
        container: Option<&KubernetesContainer>,
        begun: Instant,
        error: Error,
    ) -> Error {
        // The timeout of a copy is about the container and not about the server. That of a stop is
        // explained already.
        if matches!(operation, Operation::CopyIn | Operation::CopyOut | Operation::Stop) {
            return error;
        }
        let error = self.explain_timeout(begun, error);
        match (operation, container) {
            (Operation::Start, Some(container)) if error.kind() == ErrorKind::Timeout => {
                ops::start::not_started_yet(self, container, error)
            }
            _ => error,
        }
    }

    async fn health(self: &Arc<Self>) -> Result<Health> {
        ops::health::health(self).await
    }

    async fn pull(
        self: &Arc<Self>,
        _image: ImageRef,
        _auth: Option<RegistryAuth>,
        _policy: PullPolicy,
    ) -> Result<PullStream> {
        ops::pull::pull()
    }

    async fn create(self: &Arc<Self>, spec: PreparedSpec) -> Result<KubernetesContainer> {
        ops::create::create(self, spec).await
    }

    async fn find(self: &Arc<Self>, id: &ContainerId) -> Result<KubernetesContainer> {
        ops::list::find(self, id).await
    }

    async fn list(
        self: &Arc<Self>,
        labels: &LabelFilter,
    ) -> Result<Vec<(KubernetesContainer, ContainerInfo)>> {
        ops::list::list(self, labels).await
    }

    async fn stats_of(
        self: &Arc<Self>,
        containers: &[ContainerId],
    ) -> Result<Vec<(ContainerId, ContainerStats)>> {
        ops::stats::of_many(self, containers).await
    }

    async fn events(self: &Arc<Self>, options: EventsOptions) -> Result<EventStream> {
        ops::events::open(self, options).await
    }

    async fn reap(self: &Arc<Self>, options: ReapOptions) -> Result<ReapReport> {
        ops::reap::reap(self, options).await
    }

    async fn close(self: &Arc<Self>) -> Result<()> {
        (**self).close();
        Ok(())
    }

    async fn start(self: &Arc<Self>, container: &KubernetesContainer) -> Result<StartOutcome> {
        ops::start::start(self, container).await
    }

    async fn info(self: &Arc<Self>, container: &KubernetesContainer) -> Result<ContainerInfo> {
        ops::info::info(self, container).await
    }

    async fn wait(self: &Arc<Self>, container: &KubernetesContainer) -> Result<Exit> {
        ops::wait::wait(self, container).await
    }

    async fn logs(
        self: &Arc<Self>,
        container: &KubernetesContainer,
        options: LogOptions,
    ) -> Result<LogReader> {
        ops::logs::open(self, container, options).await
    }

    async fn raw_logs(self: &Arc<Self>, container: &KubernetesContainer) -> Result<RawLogs> {
        ops::logs::open_raw(self, container).await
    }

    async fn stats_once(
        self: &Arc<Self>,
        container: &KubernetesContainer,
    ) -> Result<ContainerStats> {
        ops::stats::once(self, container).await
    }

    async fn stats(
        self: &Arc<Self>,
        container: &KubernetesContainer,
        options: StatsOptions,
    ) -> Result<StatsStream> {
        ops::stats::stream(self, container, options).await
    }

    async fn stop(
        self: &Arc<Self>,
        container: &KubernetesContainer,
        options: StopOptions,
    ) -> Result<StopOutcome> {
        ops::stop::stop(self, container, options).await
    }

    async fn kill(self: &Arc<Self>, container: &KubernetesContainer, signal: Signal) -> Result<()> {
        ops::kill::kill(self, container, signal).await
    }

    async fn remove(self: &Arc<Self>, container: &KubernetesContainer) -> Result<()> {
        ops::remove::remove(self, container).await
    }

    async fn exec(
        self: &Arc<Self>,
        container: &KubernetesContainer,
        options: ExecOptions,
    ) -> Result<Session> {
        ops::exec::exec(self, container, options).await
    }

    async fn attach(
        self: &Arc<Self>,
        container: &KubernetesContainer,
        options: AttachOptions,
    ) -> Result<Session> {
        ops::attach::attach(self, container, options).await
    }

    async fn copy_in(
        self: &Arc<Self>,
        container: &KubernetesContainer,
        path: &str,
        content: ByteStream,
    ) -> Result<()> {
        ops::copy::unpack(self, container, path, content).await
    }

    async fn copy_out(
        self: &Arc<Self>,
        container: &KubernetesContainer,
        path: &str,
    ) -> Result<ByteStream> {
        ops::copy::pack(self, container, path).await
    }
}
