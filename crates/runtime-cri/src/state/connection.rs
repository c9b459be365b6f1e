//! Connection to an engine, and the facts about the engine that do not change.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use runtime_core::{ContainerId, LABEL_SCOPE, Operation, Result};
use runtime_support::backend::Context;
use runtime_support::kernel_log::KernelLog;

use crate::client::engine::Engine;
use crate::client::{Client, Request};
use crate::generated as cri;
use crate::host::container_dirs::ContainerDirs;
use crate::model::container::ListedContainer;
use crate::model::spec::Settings;

/// Connection to an engine.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) context: Context,
    pub(crate) client: Client,
    pub(crate) engine: Engine,
    pub(crate) ownership: Ownership,
    pub(crate) settings: Settings,
    /// Log of this host's kernel, which is the kernel of the engine: the socket is a Unix socket.
    pub(crate) kernel_log: KernelLog,
}

/// Owner of the containers of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// This library created the containers, in the scope of the connection.
    Managed,
    /// A kubelet created the containers.
    Kubelet {
        /// Namespace of the pods.
        namespace: String,
        /// Name of the container in its pod.
        container: String,
    },
}

/// Label of a kubelet with the namespace of the pod.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label of a kubelet with the name of the container in its pod.
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

impl Connection {
    /// Sends a request and waits for the response, for at most the query deadline and until the
    /// runtime is closed.
    pub(crate) async fn call<R: Request>(
        &self,
        operation: Operation,
        request: R,
    ) -> Result<R::Response> {
        let query = self.context.deadlines.query;
        self.context.unless_closed(self.client.call(operation, query, request)).await
    }

    /// Lists the containers of the connection in one request.
    pub(crate) async fn list(
        &self,
        operation: Operation,
    ) -> Result<HashMap<ContainerId, ListedContainer>> {
        let containers = self.list_raw(operation, String::new()).await?;
        Ok(containers
            .iter()
            .map(|container| (ContainerId::new(&container.id), ListedContainer::new(container)))
            .collect())
    }

    /// Returns the list as the engine sends it. If `id` is not empty, the list has only containers
    /// with ids that begin with `id`.
    pub(crate) async fn list_raw(
        &self,
        operation: Operation,
        id: String,
    ) -> Result<Vec<cri::Container>> {
        let filter =
            cri::ContainerFilter { id, label_selector: self.selector(), ..Default::default() };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        Ok(self.call(operation, request).await?.containers)
    }

    /// Returns the directories of this host that hold the files of containers.
    pub(crate) fn container_dirs(&self) -> ContainerDirs {
        ContainerDirs {
            peer: self.client.peer().clone(),
            scope: self.context.scope.clone(),
            logs: self.log_scope(),
            state: self.state_scope(),
        }
    }

    /// Returns the log directory of the scope.
    pub(crate) fn log_scope(&self) -> PathBuf {
        self.settings.log_dir.join(self.context.scope.as_str())
    }

    /// Returns the directory for files that the containers of the scope mount.
    pub(crate) fn state_scope(&self) -> PathBuf {
        self.settings.state_dir.join(self.context.scope.as_str())
    }

    /// Returns the label of every sandbox and container of the scope.
    pub(crate) fn scope_label(&self) -> (String, String) {
        (LABEL_SCOPE.to_owned(), self.context.scope.to_string())
    }

    /// Returns the labels that select the containers of the connection.
    pub(crate) fn selector(&self) -> BTreeMap<String, String> {
        match &self.ownership {
            Ownership::Managed => [self.scope_label()].into(),
            Ownership::Kubelet { namespace, container } => {
                [(POD_NAMESPACE, namespace), (CONTAINER_NAME, container)]
                    .map(|(label, value)| (label.to_owned(), value.clone()))
                    .into()
            }
        }
    }
}
