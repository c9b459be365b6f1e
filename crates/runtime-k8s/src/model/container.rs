//! The identity of a container.

use std::fmt;
use std::sync::Arc;

use runtime_core::ContainerId;
use runtime_support::backend::ContainerRef;

use super::api::{ContainerSpec, Pod};
use super::info;

/// A container, with its pod as it was when the handle was created.
#[derive(Clone)]
pub(crate) struct KubernetesContainer {
    id: ContainerId,
    name: String,
    pub(crate) pod: Arc<Pod>,
}

impl KubernetesContainer {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        Self { id: ContainerId::new(&pod.metadata.uid), name: info::name_of(&pod).to_owned(), pod }
    }

    /// Returns the UID of the pod, which is the id.
    pub(crate) fn uid(&self) -> &str {
        self.id.as_str()
    }

    /// Returns the name of the pod.
    pub(crate) fn pod_name(&self) -> &str {
        &self.pod.metadata.name
    }

    /// Returns the spec of the container in its pod.
    pub(crate) fn spec(&self) -> Option<&ContainerSpec> {
        self.pod.container()
    }

    /// Returns whether it has a terminal.
    pub(crate) fn has_terminal(&self) -> bool {
        self.spec().is_some_and(|container| container.tty)
    }

    /// Returns the grace of a stop, in seconds.
    pub(crate) fn stop_grace(&self) -> u64 {
        self.pod.spec.termination_grace_period_seconds.unwrap_or(30)
    }
}

impl ContainerRef for KubernetesContainer {
    fn id(&self) -> &ContainerId {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for KubernetesContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesContainer")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("pod", &self.pod_name())
            .finish_non_exhaustive()
    }
}
