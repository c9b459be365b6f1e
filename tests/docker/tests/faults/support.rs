//! Helpers that the tests share.

use std::time::Instant;

use docker_tests::{Environment, Raw};
use runtime_conformance::BoxError;
use runtime_core::{
    ContainerSpec, Deadlines, Error, ErrorKind, LABEL_SCOPE, Runtime, Scope, async_trait,
};
use runtime_docker::{DockerOptions, DockerRuntime};
use test_support::{Connection, Own, busybox};

pub(super) use test_support::{Outcome, scope};

pub(super) const BACKEND: &str = "docker";

/// Dedicated engine of a test, which may be killed.
pub(super) const OWN: test_engines::Engine = test_engines::Engine::DockerFaults;

/// Connection with a scope of its own.
pub(super) struct Engine {
    pub(super) runtime: DockerRuntime,
    pub(super) environment: Environment,
    pub(super) raw: Raw,
}

impl Engine {
    /// Connects to the engine of the environment.
    pub(super) async fn of_environment() -> Result<Self, BoxError> {
        Self::at(Environment::read()?, scope(), Deadlines::default()).await
    }

    /// Connects to the dedicated engine of a test.
    pub(super) async fn of_own(
        own: &Own,
        scope: Scope,
        deadlines: Deadlines,
    ) -> Result<Self, BoxError> {
        let environment = Environment { host: own.host()?, ..Environment::read()? };
        Self::at(environment, scope, deadlines).await
    }

    async fn at(
        environment: Environment,
        scope: Scope,
        deadlines: Deadlines,
    ) -> Result<Self, BoxError> {
        let options = DockerOptions::new(scope).host(&environment.host).deadlines(deadlines);
        let runtime = DockerRuntime::connect(options).await?;
        Ok(Self { runtime, raw: Raw::new(&environment.host), environment })
    }
}

#[async_trait]
impl Connection for Engine {
    const BACKEND: &'static str = BACKEND;

    fn runtime(&self) -> &dyn Runtime {
        &self.runtime
    }

    fn spec(&self) -> ContainerSpec {
        busybox(&self.environment.registry)
    }

    async fn left(&self) -> Result<Vec<String>, BoxError> {
        self.raw.containers(&format!("{LABEL_SCOPE}={}", self.runtime.scope()))
    }
}

/// Asserts that a call fails with `kind` and without delay.
#[track_caller]
pub(super) fn fails<T>(result: Result<T, Error>, kind: ErrorKind, since: Instant) -> Error {
    test_support::fails(BACKEND, result, kind, since)
}
