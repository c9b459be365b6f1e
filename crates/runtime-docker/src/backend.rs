//! The operations of the backend.

use std::sync::Arc;

use runtime_core::{
    AttachOptions, ByteStream, ContainerId, ContainerInfo, ContainerStats, EventStream,
    EventsOptions, ExecOptions, Exit, Health, ImageRef, LabelFilter, LogOptions, LogReader,
    PreparedSpec, PullPolicy, PullStream, RawLogs, ReapOptions, ReapReport, RegistryAuth, Result,
    Session, Signal, StartOutcome, StatsOptions, StatsStream, StopOptions, StopOutcome,
};
use runtime_support::backend::{Backend, Context};

use crate::error::BACKEND;
use crate::ops::{
    attach, copy, create, events, exec, health, info, kill, list, logs, pull, reap, remove, start,
    stats, stop, wait,
};
use crate::state::{DockerBackend, DockerContainer};

impl Backend for DockerBackend {
    const NAME: &'static str = BACKEND;

    type Container = DockerContainer;

    fn context(&self) -> &Context {
        &self.context
    }

    async fn health(self: &Arc<Self>) -> Result<Health> {
        health::health(self).await
    }

    async fn pull(
        self: &Arc<Self>,
        image: ImageRef,
        auth: Option<RegistryAuth>,
        policy: PullPolicy,
    ) -> Result<PullStream> {
        pull::open(self, &image, auth.as_ref(), policy).await
    }

    async fn create(self: &Arc<Self>, spec: PreparedSpec) -> Result<DockerContainer> {
        create::create(self, spec).await
    }

    async fn find(self: &Arc<Self>, id: &ContainerId) -> Result<DockerContainer> {
        list::find(self, id).await
    }

    async fn list(
        self: &Arc<Self>,
        labels: &LabelFilter,
    ) -> Result<Vec<(DockerContainer, ContainerInfo)>> {
        list::list(self, labels).await
    }

    async fn stats_of(
        self: &Arc<Self>,
        containers: &[ContainerId],
    ) -> Result<Vec<(ContainerId, ContainerStats)>> {
        stats::of_many(self, containers).await
    }

    async fn events(self: &Arc<Self>, options: EventsOptions) -> Result<EventStream> {
        events::open(self, options).await
    }

    async fn reap(self: &Arc<Self>, options: ReapOptions) -> Result<ReapReport> {
        reap::reap(self, options).await
    }

    async fn close(self: &Arc<Self>) -> Result<()> {
        self.http.close();
        Ok(())
    }

    async fn start(self: &Arc<Self>, container: &DockerContainer) -> Result<StartOutcome> {
        start::start(self, container).await
    }

    async fn info(self: &Arc<Self>, container: &DockerContainer) -> Result<ContainerInfo> {
        info::info(self, container).await
    }

    async fn wait(self: &Arc<Self>, container: &DockerContainer) -> Result<Exit> {
        wait::wait(self, container).await
    }

    async fn logs(
        self: &Arc<Self>,
        container: &DockerContainer,
        options: LogOptions,
    ) -> Result<LogReader> {
        logs::logs(self, container, options).await
    }

    async fn raw_logs(self: &Arc<Self>, container: &DockerContainer) -> Result<RawLogs> {
        logs::raw_logs(self, container).await
    }

    async fn stats_once(self: &Arc<Self>, container: &DockerContainer) -> Result<ContainerStats> {
        stats::once(self, container).await
    }

    async fn stats(
        self: &Arc<Self>,
        container: &DockerContainer,
        options: StatsOptions,
    ) -> Result<StatsStream> {
        stats::stream(self, container, options).await
    }

    async fn stop(
        self: &Arc<Self>,
        container: &DockerContainer,
        options: StopOptions,
    ) -> Result<StopOutcome> {
        stop::stop(self, container, options).await
    }

    async fn kill(self: &Arc<Self>, container: &DockerContainer, signal: Signal) -> Result<()> {
        kill::kill(self, container, signal).await
    }

    async fn remove(self: &Arc<Self>, container: &DockerContainer) -> Result<()> {
        remove::remove(self, container).await
    }

    async fn exec(
        self: &Arc<Self>,
        container: &DockerContainer,
        options: ExecOptions,
    ) -> Result<Session> {
        exec::exec(self, container, options).await
    }

    async fn attach(
        self: &Arc<Self>,
        container: &DockerContainer,
        options: AttachOptions,
    ) -> Result<Session> {
        attach::attach(self, container, options).await
    }

    async fn copy_in(
        self: &Arc<Self>,
        container: &DockerContainer,
        path: &str,
        content: ByteStream,
    ) -> Result<()> {
        copy::copy_in(self, container, path, content).await
    }

    async fn copy_out(
        self: &Arc<Self>,
        container: &DockerContainer,
        path: &str,
    ) -> Result<ByteStream> {
        copy::copy_out(self, container, path).await
    }
}
