//! What the tests share.

use std::time::{Duration, Instant};

use docker_tests::{Environment, Raw};
use runtime_conformance::{BoxError, Images};
use runtime_core::{
    ContainerSpec, Deadlines, Error, ErrorKind, Image, LABEL_SCOPE, ReapOptions, RegistryAuth,
    Runtime, Scope,
};
use runtime_docker::{DockerOptions, DockerRuntime};

pub(super) type Outcome = Result<(), BoxError>;

/// A connection with a scope of its own, which is emptied at the end.
pub(super) struct Engine {
    pub(super) runtime: DockerRuntime,
    pub(super) environment: Environment,
    raw: Raw,
}

impl Engine {
    /// The engine of the environment.
    pub(super) async fn of_environment() -> Result<Self, BoxError> {
        let environment = Environment::read()?;
        Self::at(environment, Deadlines::default()).await
    }

    /// The engine of an environment, with these deadlines.
    pub(super) async fn at(
        environment: Environment,
        deadlines: Deadlines,
    ) -> Result<Self, BoxError> {
        let options = DockerOptions::new(scope()).host(&environment.host).deadlines(deadlines);
        let runtime = DockerRuntime::connect(options).await?;
        Ok(Self { runtime, raw: Raw::new(&environment.host), environment })
    }

    pub(super) fn image(&self, reference: String) -> Image {
        let registry = &self.environment.registry;
        Image::new(reference).auth(RegistryAuth::new(&registry.username, &registry.password))
    }

    /// A container that runs until it is killed.
    pub(super) fn idle(&self) -> ContainerSpec {
        let images = Images::of_registry(&self.environment.registry.address);
        ContainerSpec::new(self.image(images.busybox)).command(["sleep", "3600"])
    }

    /// What the engine itself lists of the scope.
    pub(super) fn left(&self) -> Result<Vec<String>, BoxError> {
        self.raw.containers(&format!("{LABEL_SCOPE}={}", self.runtime.scope()))
    }

    /// Empties the scope, and asserts that it is empty. What was cut off may be undone just now.
    pub(super) async fn finish(self) -> Outcome {
        self.runtime.reap(ReapOptions::default()).await?;
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

/// Asserts that a call fails, how, and that it does so at once.
#[track_caller]
pub(super) fn fails<T>(result: Result<T, Error>, kind: ErrorKind, since: Instant) -> Error {
    let Err(error) = result else { panic!("it succeeded and should be {kind:?}") };
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.backend(), Some("docker"), "{error:?}");
    assert!(error.operation().is_some(), "{error:?}");
    let took = since.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    error
}
