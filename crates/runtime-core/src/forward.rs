//! Implementations of [`Runtime`] and [`Container`] for `Arc` and `Box`.

#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    AttachOptions, ByteStream, Capabilities, Container, ContainerId, ContainerInfo, ContainerSpec,
    ContainerStats, CopyInOptions, CopyOutOptions, EventStream, EventsOptions, ExecOptions, Exit,
    Health, Image, ListOptions, Listed, LogOptions, LogReader, PullOptions, PullStream, RawLogs,
    ReapOptions, ReapReport, Result, Runtime, Scope, Session, Signal, StartOutcome, StatsOptions,
    StatsStream, StopOptions, StopOutcome,
};

macro_rules! forward {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        impl<T: Runtime + ?Sized> Runtime for $pointer<T> {
            fn backend(&self) -> &'static str {
                (**self).backend()
            }
            fn scope(&self) -> &Scope {
                (**self).scope()
            }
            fn capabilities(&self) -> &Capabilities {
                (**self).capabilities()
            }
            async fn health(&self) -> Result<Health> {
                (**self).health().await
            }
            async fn pull_image(&self, image: &Image, options: PullOptions) -> Result<PullStream> {
                (**self).pull_image(image, options).await
            }
            async fn create_container(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>> {
                (**self).create_container(spec).await
            }
            async fn container(&self, id: &ContainerId) -> Result<Arc<dyn Container>> {
                (**self).container(id).await
            }
            async fn list_containers(&self, options: ListOptions) -> Result<Vec<Listed>> {
                (**self).list_containers(options).await
            }
            async fn stats(
                &self,
                containers: &[ContainerId],
            ) -> Result<Vec<(ContainerId, ContainerStats)>> {
                (**self).stats(containers).await
            }
            async fn events(&self, options: EventsOptions) -> Result<EventStream> {
                (**self).events(options).await
            }
            async fn reap(&self, options: ReapOptions) -> Result<ReapReport> {
                (**self).reap(options).await
            }
            async fn close(&self) -> Result<()> {
                (**self).close().await
            }
        }

        #[async_trait]
        impl<T: Container + ?Sized> Container for $pointer<T> {
            fn id(&self) -> &ContainerId {
                (**self).id()
            }
            fn name(&self) -> &str {
                (**self).name()
            }
            async fn start(&self) -> Result<StartOutcome> {
                (**self).start().await
            }
            async fn info(&self) -> Result<ContainerInfo> {
                (**self).info().await
            }
            async fn wait(&self) -> Result<Exit> {
                (**self).wait().await
            }
            async fn logs(&self, options: LogOptions) -> Result<LogReader> {
                (**self).logs(options).await
            }
            async fn raw_logs(&self) -> Result<RawLogs> {
                (**self).raw_logs().await
            }
            async fn stats_once(&self) -> Result<ContainerStats> {
                (**self).stats_once().await
            }
            async fn stats(&self, options: StatsOptions) -> Result<StatsStream> {
                (**self).stats(options).await
            }
            async fn stop(&self, options: StopOptions) -> Result<StopOutcome> {
                (**self).stop(options).await
            }
            async fn kill(&self, signal: Signal) -> Result<()> {
                (**self).kill(signal).await
            }
            async fn remove(&self) -> Result<()> {
                (**self).remove().await
            }
            async fn exec(&self, options: ExecOptions) -> Result<Session> {
                (**self).exec(options).await
            }
            async fn attach(&self, options: AttachOptions) -> Result<Session> {
                (**self).attach(options).await
            }
            async fn copy_in(
                &self,
                path: &str,
                content: ByteStream,
                options: CopyInOptions,
            ) -> Result<()> {
                (**self).copy_in(path, content, options).await
            }
            async fn copy_out(&self, path: &str, options: CopyOutOptions) -> Result<ByteStream> {
                (**self).copy_out(path, options).await
            }
        }
    )*};
}

forward!(Arc, Box);
