//! Helpers that the tests share.

use std::path::PathBuf;
use std::time::Instant;

use cri_tests::{Environment, Raw};
use runtime_conformance::BoxError;
use runtime_core::{
    Container, ContainerSpec, Error, ErrorKind, LABEL_SCOPE, Runtime, Scope, async_trait,
};
use runtime_cri::{CriOptions, CriRuntime, LogRotation};
use test_support::{Connection, busybox};

pub(super) use test_support::{Outcome, scope};

pub(super) const BACKEND: &str = "cri";

/// Connection with a scope of its own.
pub(super) struct Engine {
    pub(super) runtime: CriRuntime,
    pub(super) environment: Environment,
    pub(super) raw: Raw,
}

impl Engine {
    /// Connects to the engine of the environment.
    pub(super) async fn of_environment() -> Result<Self, BoxError> {
        Self::of_environment_with(|options| options).await
    }

    pub(super) async fn of_environment_with(
        change: impl FnOnce(CriOptions) -> CriOptions,
    ) -> Result<Self, BoxError> {
        Self::at(Environment::read()?, scope(), change).await
    }

    /// Connects to the engine of `environment`. Its logs are rotated only by the test.
    pub(super) async fn at(
        environment: Environment,
        scope: Scope,
        change: impl FnOnce(CriOptions) -> CriOptions,
    ) -> Result<Self, BoxError> {
        let options = environment.options(&scope).log_rotation(LogRotation::Off);
        let runtime = CriRuntime::connect(change(options)).await?;
        Ok(Self { runtime, raw: Raw::new(&environment.endpoint), environment })
    }

    /// Returns the directory of the scope's logs.
    pub(super) fn logs(&self) -> PathBuf {
        self.environment.log_dir().join(self.runtime.scope().as_str())
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

    /// Includes the log directories.
    async fn left(&self) -> Result<Vec<String>, BoxError> {
        let mut left = self.raw.containers(&[(LABEL_SCOPE, self.runtime.scope().as_str())])?;
        let folders = std::fs::read_dir(self.logs()).into_iter().flatten().flatten();
        left.extend(folders.map(|folder| folder.path().display().to_string()));
        Ok(left)
    }
}

/// Returns the directory that the engine sees at the same path.
pub(super) fn shared_dir() -> Result<PathBuf, String> {
    test_support::environment::shared_dir()
}

/// Returns `true` if the tests may take minutes.
pub(super) fn matrix() -> bool {
    std::env::var("RUNTIME_TEST_MATRIX").is_ok_and(|value| value == "1")
}

/// Returns the log directory of the only container of a scope.
pub(super) fn log_folder(engine: &Engine, _of: &dyn Container) -> Result<PathBuf, BoxError> {
    let folder = std::fs::read_dir(engine.logs())?.next().ok_or("there is no log folder")??;
    Ok(folder.path())
}

/// Asserts that a call fails with `kind` and without delay.
#[track_caller]
pub(super) fn fails<T>(result: Result<T, Error>, kind: ErrorKind, since: Instant) -> Error {
    test_support::fails(BACKEND, result, kind, since)
}
