//! Containers as this crate remembers and lists them.

use std::fmt;
use std::sync::Arc;

use runtime_core::{ContainerId, ContainerInfo};
use runtime_support::backend::ContainerRef;

use super::annotations::Annotations;
use super::info;
use crate::generated as cri;

/// Identity of a container at the engine, and its annotations.
#[derive(Clone)]
pub(crate) struct CriContainer {
    pub(crate) id: ContainerId,
    pub(crate) name: Arc<str>,
    pub(crate) sandbox: Arc<str>,
    pub(crate) annotations: Arc<Annotations>,
}

impl fmt::Debug for CriContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CriContainer")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}

impl ContainerRef for CriContainer {
    fn id(&self) -> &ContainerId {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// Entry of a container list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ListedContainer {
    pub(crate) info: ContainerInfo,
    pub(crate) sandbox: String,
    pub(crate) annotations: Arc<Annotations>,
}

impl ListedContainer {
    /// Converts an entry of the engine's list.
    pub(crate) fn new(container: &cri::Container) -> Self {
        Self {
            info: info::from_list(container),
            sandbox: container.pod_sandbox_id.clone(),
            annotations: Arc::new(Annotations::read(&container.annotations).unwrap_or_default()),
        }
    }

    /// Returns the identity of the container.
    pub(crate) fn identity(&self) -> CriContainer {
        CriContainer {
            id: self.info.id.clone(),
            name: self.info.name.as_str().into(),
            sandbox: self.sandbox.as_str().into(),
            annotations: Arc::clone(&self.annotations),
        }
    }
}

/// Result of an inspect request.
#[derive(Debug, Clone)]
pub(crate) struct Details {
    pub(crate) info: ContainerInfo,
    /// Whether the engine or the kernel reported that a process ran out of memory.
    pub(crate) out_of_memory: bool,
}
