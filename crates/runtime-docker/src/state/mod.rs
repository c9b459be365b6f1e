//! The connection to one engine, and its state between calls.

pub(crate) mod containers;
pub(crate) mod exits;
pub(crate) mod samples;

use std::fmt;
use std::sync::Arc;

use http::Response;
use hyper::body::Incoming;
use runtime_core::{Capabilities, ContainerId, Deadlines, Operation, Result, Scope};
use runtime_support::ExitHub;
use runtime_support::backend::{ContainerRef, Context};
use serde::de::DeserializeOwned;

use self::containers::{ContainerState, ContainerStates};
use self::samples::Samples;
use crate::client::deadline::within;
use crate::client::http::{ApiRequest, Http};
use crate::client::inspect::inspect;
use crate::model::engine::Engine;
use crate::model::info::Summary;
use crate::model::inspect::Inspect;

/// The connection to a Docker Engine or a Podman service.
#[derive(Debug)]
pub(crate) struct DockerBackend {
    /// Scope, deadlines, capabilities and cleanup tasks.
    pub(crate) context: Context,
    /// The client of all requests.
    pub(crate) http: Arc<Http>,
    /// The same client for bollard's calls.
    pub(crate) docker: bollard::Docker,
    /// The identity and configuration of the engine.
    pub(crate) engine: Engine,
    /// The state of containers that the engine does not keep.
    pub(crate) containers: Arc<ContainerStates>,
    /// The exit watcher.
    pub(crate) exits: ExitHub,
    /// The last stats sample of each container.
    pub(crate) samples: Samples,
}

impl DockerBackend {
    pub(crate) fn scope(&self) -> &Scope {
        &self.context.scope
    }

    pub(crate) fn deadlines(&self) -> &Deadlines {
        &self.context.deadlines
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.context.capabilities
    }

    /// Returns the reference of the container with this id.
    pub(crate) fn container(&self, id: ContainerId, name: &str) -> DockerContainer {
        let state = self.containers.of(&id);
        DockerContainer { id, name: name.into(), state }
    }

    /// Returns the reference of a listed container.
    pub(crate) fn listed(&self, summary: &Summary) -> DockerContainer {
        self.container(ContainerId::new(&summary.id), summary.name())
    }

    /// Sends a request and reads its JSON response within the deadline of queries.
    pub(crate) async fn query<T: DeserializeOwned>(
        &self,
        operation: Operation,
        request: ApiRequest,
    ) -> Result<T> {
        within(operation, self.deadlines().query, self.http.json(request)).await
    }

    /// Opens a stream within the deadline of queries. The stream itself has no deadline.
    pub(crate) async fn open(
        &self,
        operation: Operation,
        request: ApiRequest,
    ) -> Result<Response<Incoming>> {
        within(operation, self.deadlines().query, self.http.call(request)).await
    }

    /// Inspects a container.
    ///
    /// # Errors
    /// `NotFound` if the engine has no such container.
    pub(crate) async fn inspect(&self, operation: Operation, id: &ContainerId) -> Result<Inspect> {
        inspect(&self.http, self.deadlines().query, operation, id).await
    }
}

/// A container of the engine.
#[derive(Clone)]
pub(crate) struct DockerContainer {
    pub(crate) id: ContainerId,
    pub(crate) name: Arc<str>,
    pub(crate) state: Arc<ContainerState>,
}

impl fmt::Debug for DockerContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerContainer").field("id", &self.id).field("name", &self.name).finish()
    }
}

impl ContainerRef for DockerContainer {
    fn id(&self) -> &ContainerId {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}
