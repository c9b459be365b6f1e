//! Subject for engines with the CRI.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use runtime_conformance::{
    BoxError, Difference, EngineControl, GpuProof, Images, Registry, Subject,
};
use runtime_core::{LABEL_SCOPE, Result, Runtime, Scope, async_trait};
use runtime_cri::{CriOptions, CriRuntime};
use test_support::{Control, environment};

use crate::{Raw, device};

/// Engine and registry from the variables that `cargo xtask env up` prints.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Endpoint of the engine, in the form of `CONTAINER_RUNTIME_ENDPOINT`.
    pub endpoint: String,
    /// Name of the engine: `containerd`, `containerd-17`, `containerd-21`.
    pub engine: String,
    /// Registry with its login.
    pub registry: Registry,
    /// Directory that the engine sees at the same path.
    pub shared: PathBuf,
    /// Directory of the engine's device descriptions, if it reads any.
    pub cdi: Option<PathBuf>,
}

impl Environment {
    /// Reads the variables.
    ///
    /// # Errors
    /// If a variable is missing: a test fails without an engine.
    pub fn read() -> std::result::Result<Self, BoxError> {
        Ok(Self {
            endpoint: environment::variable("RUNTIME_TEST_CRI_ENDPOINT")?,
            engine: environment::engine()?,
            registry: environment::registry()?,
            shared: environment::shared_dir()?,
            cdi: std::env::var_os("RUNTIME_TEST_CDI_DIR").map(PathBuf::from),
        })
    }

    /// Returns the directory for the logs.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.shared.join(format!("{}-logs", self.engine))
    }

    /// Returns the options of a connection.
    #[must_use]
    pub fn options(&self, scope: &Scope) -> CriOptions {
        CriOptions::new(scope.clone())
            .endpoint(&self.endpoint)
            .log_dir(self.log_dir())
            .state_dir(self.shared.join(format!("{}-state", self.engine)))
            .gpu_kind(device::KIND)
    }
}

/// CRI engine under test.
#[derive(Debug)]
pub struct CriSubject {
    environment: Environment,
    raw: Raw,
    control: Option<Control>,
    gpus: Option<GpuProof>,
}

impl CriSubject {
    /// Creates the subject for the engine of the environment.
    ///
    /// # Errors
    /// If a variable is missing, or the emulated device cannot be installed.
    pub fn from_env() -> std::result::Result<Self, BoxError> {
        let environment = Environment::read()?;
        let control = Control::of(&environment.engine, &environment.endpoint);
        let gpus = match &environment.cdi {
            Some(cdi) => Some(device::install(cdi, &environment.shared)?),
            None => None,
        };
        Ok(Self { raw: Raw::new(&environment.endpoint), environment, control, gpus })
    }
}

#[async_trait]
impl Subject for CriSubject {
    fn engine(&self) -> String {
        self.environment.engine.clone()
    }

    async fn connect(&self, scope: &Scope) -> Result<Arc<dyn Runtime>> {
        Ok(Arc::new(CriRuntime::connect(self.environment.options(scope)).await?))
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
        let (raw, scope) = (self.raw.clone(), scope.clone());
        let logs = self.environment.log_dir();
        tokio::task::spawn_blocking(move || left(&raw, &scope, &logs)).await?
    }

    fn control(&self) -> Option<&dyn EngineControl> {
        self.control.as_ref().map(|control| control as &dyn EngineControl)
    }

    fn gpus(&self) -> Option<GpuProof> {
        self.gpus.clone()
    }

    fn differences(&self) -> Vec<Difference> {
        vec![Difference::adds_groups_of_the_image()]
    }

    fn tells_every_oom(&self) -> bool {
        test_support::environment::may_read_kernel_log()
    }
}

/// Returns the leftovers of a scope: one line for each sandbox, with its containers and its log directory,
/// and one for each container or log directory without a sandbox.
fn left(raw: &Raw, scope: &Scope, logs: &Path) -> std::result::Result<Vec<String>, BoxError> {
    let of_scope = |kind: &str| {
        raw.containers(&[(LABEL_SCOPE, scope.as_str()), ("io.cri-containerd.kind", kind)])
    };
    let mut left = of_scope("sandbox")?;
    let sandboxes = left.len();
    left.extend(of_scope("container")?.into_iter().skip(sandboxes));
    let folders = std::fs::read_dir(logs.join(scope.as_str())).into_iter().flatten().flatten();
    left.extend(folders.skip(sandboxes).map(|folder| folder.path().display().to_string()));
    Ok(left)
}
