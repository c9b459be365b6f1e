//! Subject for engines with Docker's API.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use runtime_conformance::{BoxError, Difference, EngineControl, Images, Registry, Subject};
use runtime_core::{Deadlines, LABEL_SCOPE, Result, Runtime, Scope, async_trait};
use runtime_docker::{DockerOptions, DockerRuntime};
use test_support::{Control, environment};

use crate::{Raw, differences};

/// Engine and registry from the variables that `cargo xtask env up` prints.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Address of the engine, in the form of `DOCKER_HOST`.
    pub host: String,
    /// Name of the engine: `docker`, `podman-54`, `docker-26`.
    pub engine: String,
    /// Registry with its login.
    pub registry: Registry,
    /// Directory that the engine sees at the same path.
    pub shared: PathBuf,
}

impl Environment {
    /// Reads the variables.
    ///
    /// # Errors
    /// If a variable is missing: a test fails without an engine.
    pub fn read() -> std::result::Result<Self, BoxError> {
        Ok(Self {
            host: environment::variable("RUNTIME_TEST_DOCKER_HOST")?,
            engine: environment::engine()?,
            registry: environment::registry()?,
            shared: environment::shared_dir()?,
        })
    }
}

/// Docker engine under test.
#[derive(Debug)]
pub struct DockerSubject {
    environment: Environment,
    raw: Raw,
    control: Option<Control>,
}

impl DockerSubject {
    /// Creates the subject for the engine of the environment.
    ///
    /// # Errors
    /// If a variable is missing, or the name of the engine is unknown.
    pub fn from_env() -> std::result::Result<Self, BoxError> {
        let environment = Environment::read()?;
        let control = Control::of(&environment.engine, &environment.host);
        Ok(Self { raw: Raw::new(&environment.host), environment, control })
    }
}

#[async_trait]
impl Subject for DockerSubject {
    fn engine(&self) -> String {
        self.environment.engine.clone()
    }

    async fn connect(&self, scope: &Scope) -> Result<Arc<dyn Runtime>> {
        // The cases put load on the engine, and the machine may be busy as well.
        let mut deadlines = Deadlines::default();
        deadlines.connect = Duration::from_secs(60);
        deadlines.query = Duration::from_secs(60);
        let options =
            DockerOptions::new(scope.clone()).host(&self.environment.host).deadlines(deadlines);
        Ok(Arc::new(DockerRuntime::connect(options).await?))
    }

    fn images(&self) -> Images {
        Images::of_registry(&self.environment.registry.address)
    }

    fn registry(&self) -> Registry {
        self.environment.registry.clone()
    }

    async fn push_image(&self, name: &str) -> std::result::Result<String, BoxError> {
        test_support::push_image(name).await
    }

    async fn forget_image(&self, reference: &str) -> std::result::Result<bool, BoxError> {
        let (raw, reference) = (self.raw.clone(), reference.to_owned());
        tokio::task::spawn_blocking(move || raw.remove_image(&reference)).await??;
        Ok(true)
    }

    fn shared_dir(&self) -> Option<PathBuf> {
        Some(self.environment.shared.clone())
    }

    fn published_address(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    async fn leftovers(&self, scope: &Scope) -> std::result::Result<Vec<String>, BoxError> {
        let (raw, label) = (self.raw.clone(), format!("{LABEL_SCOPE}={scope}"));
        tokio::task::spawn_blocking(move || raw.containers(&label)).await?
    }

    fn control(&self) -> Option<&dyn EngineControl> {
        self.control.as_ref().map(|control| control as &dyn EngineControl)
    }

    fn tells_every_oom(&self) -> bool {
        test_support::environment::may_read_kernel_log()
    }

    fn parallelism(&self) -> usize {
        // Podman serializes requests under the locks of its database.
        if self.environment.engine.starts_with("podman") { 3 } else { 6 }
    }

    fn differences(&self) -> Vec<Difference> {
        differences::of(&self.environment.engine)
    }
}
