//! The backend: each operation calls its implementation in [`ops`](crate::ops).

use std::sync::Arc;

use runtime_core::{
    AttachOptions, ByteStream, ContainerId, ContainerInfo, ContainerStats, EventStream,
    EventsOptions, ExecOptions, Exit, Health, ImageRef, LabelFilter, LogOptions, LogReader,
    PreparedSpec, PullPolicy, PullStream, ReapOptions, ReapReport, RegistryAuth, Result, Session,
    Signal, StartOutcome, StatsOptions, StatsStream, StopOptions, StopOutcome,
};
use runtime_support::backend::{Backend, Context};

use crate::BACKEND;
use crate::model::container::CriContainer;
use crate::ops::{
    attach, copy, create, events, exec, health, info, kill, list, logs, pull, reap, remove, start,
    stats, stop, wait,
};
use crate::state::CriBackend;

impl Backend for CriBackend {
    const NAME: &'static str = BACKEND;

    type Container = CriContainer;

    fn context(&self) -> &Context {
        &self.connection.context
    }

    async fn health(self: &Arc<Self>) -> Result<Health> {
        health::health(&self.connection).await
    }

    async fn pull(
        self: &Arc<Self>,
        image: ImageRef,
        auth: Option<RegistryAuth>,
        policy: PullPolicy,
    ) -> Result<PullStream> {
        pull::pull_stream(Arc::clone(&self.connection), image, auth, policy).await
    }

    async fn create(self: &Arc<Self>, spec: PreparedSpec) -> Result<CriContainer> {
        create::create(self, spec).await
    }

    async fn find(self: &Arc<Self>, id: &ContainerId) -> Result<CriContainer> {
        list::find(&self.connection, id).await
    }

    async fn list(
        self: &Arc<Self>,
        labels: &LabelFilter,
    ) -> Result<Vec<(CriContainer, ContainerInfo)>> {
        list::list(&self.connection, labels).await
    }

    async fn stats_of(
        self: &Arc<Self>,
        containers: &[ContainerId],
    ) -> Result<Vec<(ContainerId, ContainerStats)>> {
        stats::many(self, containers, &Default::default()).await
    }

    async fn events(self: &Arc<Self>, options: EventsOptions) -> Result<EventStream> {
        events::open(self, options).await
    }

    async fn reap(self: &Arc<Self>, options: ReapOptions) -> Result<ReapReport> {
        reap::reap(self, options).await
    }

    async fn close(self: &Arc<Self>) -> Result<()> {
        self.disconnect();
        Ok(())
    }

    async fn start(self: &Arc<Self>, container: &CriContainer) -> Result<StartOutcome> {
        start::start(self, container).await
    }

    async fn info(self: &Arc<Self>, container: &CriContainer) -> Result<ContainerInfo> {
        info::info(&self.connection, container).await
    }

    async fn wait(self: &Arc<Self>, container: &CriContainer) -> Result<Exit> {
        wait::wait(self, container).await
    }

    async fn logs(
        self: &Arc<Self>,
        container: &CriContainer,
        options: LogOptions,
    ) -> Result<LogReader> {
        logs::open(self, container, options).await
    }

    async fn stats_once(self: &Arc<Self>, container: &CriContainer) -> Result<ContainerStats> {
        stats::once(self, container).await
    }

    async fn stats(
        self: &Arc<Self>,
        container: &CriContainer,
        options: StatsOptions,
    ) -> Result<StatsStream> {
        stats::stream(self, container, options).await
    }

    async fn stop(
        self: &Arc<Self>,
        container: &CriContainer,
        options: StopOptions,
    ) -> Result<StopOutcome> {
        stop::stop(self, container, options).await
    }

    async fn kill(self: &Arc<Self>, container: &CriContainer, signal: Signal) -> Result<()> {
        kill::send(&self.connection, container, signal).await
    }

    async fn remove(self: &Arc<Self>, container: &CriContainer) -> Result<()> {
        remove::remove(self, container).await
    }

    async fn exec(
        self: &Arc<Self>,
        container: &CriContainer,
        options: ExecOptions,
    ) -> Result<Session> {
        exec::exec(self, container, options).await
    }

    async fn attach(
        self: &Arc<Self>,
        container: &CriContainer,
        options: AttachOptions,
    ) -> Result<Session> {
        attach::attach(self, container, options).await
    }

    async fn copy_in(
        self: &Arc<Self>,
        container: &CriContainer,
        path: &str,
        content: ByteStream,
    ) -> Result<()> {
        copy::unpack(self, container, path, content).await
    }

    async fn copy_out(
        self: &Arc<Self>,
        container: &CriContainer,
        path: &str,
    ) -> Result<ByteStream> {
        copy::pack(self, container, path).await
    }
}
