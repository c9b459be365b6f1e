//! One container.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{
    AttachOptions, ByteStream, Capability, Container, ContainerId, ContainerInfo, ContainerStats,
    CopyInOptions, CopyOutOptions, Error, ExecOptions, Exit, LogOptions, LogReader, Operation,
    Result, Session, Signal, StartOutcome, StatsOptions, StatsStream, StopOptions, StopOutcome,
};

use crate::BACKEND;
use crate::shared::Shared;

/// A handle.
pub(crate) struct DockerContainer {
    shared: Arc<Shared>,
    id: ContainerId,
    name: String,
}

impl fmt::Debug for DockerContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerContainer").field("id", &self.id).field("name", &self.name).finish()
    }
}

impl DockerContainer {
    pub(crate) fn new(shared: Arc<Shared>, id: ContainerId, name: String) -> Self {
        Self { shared, id, name }
    }

    fn lacks(&self, capability: Capability, operation: Operation) -> Error {
        Error::unsupported(capability).during(operation).on(BACKEND).about(&self.id)
    }
}

#[async_trait]
impl Container for DockerContainer {
    fn id(&self) -> &ContainerId {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self) -> Result<StartOutcome> {
        Err(Error::internal("not written yet"))
    }

    async fn info(&self) -> Result<ContainerInfo> {
        Err(Error::internal("not written yet"))
    }

    async fn wait(&self) -> Result<Exit> {
        Err(Error::internal("not written yet"))
    }

    async fn logs(&self, _options: LogOptions) -> Result<LogReader> {
        Err(self.lacks(Capability::Logs, Operation::Logs))
    }

    async fn stats_once(&self) -> Result<ContainerStats> {
        Err(self.lacks(Capability::StatsCpu, Operation::Stats))
    }

    async fn stats(&self, _options: StatsOptions) -> Result<StatsStream> {
        Err(self.lacks(Capability::StatsCpu, Operation::Stats))
    }

    async fn stop(&self, _options: StopOptions) -> Result<StopOutcome> {
        Err(Error::internal("not written yet"))
    }

    async fn kill(&self, _signal: Signal) -> Result<()> {
        Err(Error::internal("not written yet"))
    }

    async fn remove(&self) -> Result<()> {
        Err(Error::internal("not written yet"))
    }

    async fn exec(&self, _options: ExecOptions) -> Result<Session> {
        Err(self.lacks(Capability::Exec, Operation::Exec))
    }

    async fn attach(&self, _options: AttachOptions) -> Result<Session> {
        Err(self.lacks(Capability::Attach, Operation::Attach))
    }

    async fn copy_in(
        &self,
        _path: &str,
        _content: ByteStream,
        _options: CopyInOptions,
    ) -> Result<()> {
        Err(self.lacks(Capability::CopyIn, Operation::CopyIn))
    }

    async fn copy_out(&self, _path: &str, _options: CopyOutOptions) -> Result<ByteStream> {
        Err(self.lacks(Capability::CopyOut, Operation::CopyOut))
    }
}
