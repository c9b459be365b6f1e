//! What containers use.

use std::sync::Arc;

use runtime_core::{
    Capability, ContainerId, ContainerStats, Error, Operation, Result, StatsOptions, StatsStream,
};

use crate::BACKEND;
use crate::container::KubernetesContainer;
use crate::shared::Shared;

/// The last measurements.
#[derive(Debug, Default)]
pub(crate) struct Samples {}

fn refused<T>() -> Result<T> {
    Err(Error::unsupported(Capability::StatsCpu).during(Operation::Stats).on(BACKEND))
}

pub(crate) async fn once(_container: &KubernetesContainer) -> Result<ContainerStats> {
    refused()
}

pub(crate) async fn stream(
    _container: &KubernetesContainer,
    _options: StatsOptions,
) -> Result<StatsStream> {
    refused()
}

pub(crate) async fn many(
    _shared: &Arc<Shared>,
    _containers: &[ContainerId],
) -> Result<Vec<(ContainerId, ContainerStats)>> {
    refused()
}
