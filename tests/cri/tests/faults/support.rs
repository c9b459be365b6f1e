//! What the tests share.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cri_tests::{Environment, Raw};
use runtime_conformance::{BoxError, Images};
use runtime_core::{
    Container, ContainerSpec, Error, ErrorKind, Image, LABEL_SCOPE, ReapOptions, RegistryAuth,
    Runtime, Scope,
};
use runtime_cri::{CriOptions, CriRuntime, LogRotation};

pub(super) type Outcome = Result<(), BoxError>;

/// A connection with a scope of its own, which is emptied at the end.
pub(super) struct Engine {
    pub(super) runtime: CriRuntime,
    pub(super) environment: Environment,
    pub(super) raw: Raw,
}

impl Engine {
    /// The engine of the environment.
    pub(super) async fn of_environment() -> Result<Self, BoxError> {
        Self::at(Environment::read()?, scope(), |options| options).await
    }

    /// The engine of an environment. Nothing rotates its logs unless a test does.
    pub(super) async fn at(
        environment: Environment,
        scope: Scope,
        change: impl FnOnce(CriOptions) -> CriOptions,
    ) -> Result<Self, BoxError> {
        let options = environment.options(&scope).log_rotation(LogRotation::Off);
        let runtime = CriRuntime::connect(change(options)).await?;
        Ok(Self { runtime, raw: Raw::new(&environment.endpoint), environment })
    }

    pub(super) fn spec(&self) -> ContainerSpec {
        let registry = &self.environment.registry;
        let images = Images::of_registry(&registry.address);
        let auth = RegistryAuth::new(&registry.username, &registry.password);
        ContainerSpec::new(Image::new(images.busybox).auth(auth))
    }

    /// A container that runs a script.
    pub(super) fn script(&self, script: &str) -> ContainerSpec {
        self.spec().command(["sh", "-c", script])
    }

    /// A container that runs until it is killed.
    pub(super) fn idle(&self) -> ContainerSpec {
        self.spec().command(["sleep", "3600"])
    }

    /// The folder of the scope's logs.
    pub(super) fn logs(&self) -> PathBuf {
        self.environment.log_dir().join(self.runtime.scope().as_str())
    }

    /// What the engine itself lists of the scope, and the folders of its logs.
    pub(super) fn left(&self) -> Result<Vec<String>, BoxError> {
        let mut left = self.raw.containers(&[(LABEL_SCOPE, self.runtime.scope().as_str())])?;
        let folders = std::fs::read_dir(self.logs()).into_iter().flatten().flatten();
        left.extend(folders.map(|folder| folder.path().display().to_string()));
        Ok(left)
    }

    /// Empties the scope, and asserts that it is empty. What was cut off may be undone just now.
    pub(super) async fn finish(self) -> Outcome {
        self.runtime.reap(ReapOptions::default()).await?;
        self.runtime.close().await?;
        let end = Instant::now() + Duration::from_secs(20);
        while !self.left()?.is_empty() {
            assert!(Instant::now() < end, "this is left: {:?}", self.left()?);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// A scope that nobody has.
pub(super) fn scope() -> Scope {
    let nonce = runtime_core::Nonce::random().expect("the system gives random numbers");
    Scope::new(format!("faults-{}", &nonce.as_str()[..12])).expect("letters and digits")
}

/// The folder of the logs of the only container of a scope.
pub(super) fn log_folder(engine: &Engine, _of: &dyn Container) -> Result<PathBuf, BoxError> {
    let folder = std::fs::read_dir(engine.logs())?.next().ok_or("there is no log folder")??;
    Ok(folder.path())
}

/// Asserts that a call fails, how, and that it does so at once.
#[track_caller]
pub(super) fn fails<T>(result: Result<T, Error>, kind: ErrorKind, since: Instant) -> Error {
    let Err(error) = result else { panic!("it succeeded and should be {kind:?}") };
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.backend(), Some("cri"), "{error:?}");
    assert!(error.operation().is_some(), "{error:?}");
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    error
}
