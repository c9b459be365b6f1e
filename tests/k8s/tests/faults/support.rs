//! What the tests share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_tests::{Environment, Raw};
use runtime_conformance::{BoxError, Images};
use runtime_core::{
    Container, ContainerSpec, Exit, Image, LABEL_SCOPE, ReapOptions, RegistryAuth, Runtime, Scope,
};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime};
use test_engines::Cluster;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

pub(super) type Outcome = Result<(), BoxError>;

/// There is one cluster, and a fault in it is one for everybody.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A connection with a scope of its own, which is emptied at the end, to a cluster that nobody
/// else uses meanwhile.
pub(super) struct Subject {
    pub(super) runtime: KubernetesRuntime,
    pub(super) cluster: Cluster,
    pub(super) environment: Environment,
    _alone: MutexGuard<'static, ()>,
}

impl Subject {
    /// With exactly the rights of the Role.
    pub(super) async fn new() -> Result<Self, BoxError> {
        Self::with(|_, options| options).await
    }

    pub(super) async fn with(
        change: impl FnOnce(&Environment, KubernetesOptions) -> KubernetesOptions,
    ) -> Result<Self, BoxError> {
        let alone = ALONE.lock().await;
        let environment = Environment::read()?;
        let options = change(&environment, environment.options(&scope()));
        let runtime = KubernetesRuntime::connect(options).await?;
        Ok(Self { runtime, cluster: Cluster::of_checkout()?, environment, _alone: alone })
    }

    pub(super) fn admin(&self) -> PathBuf {
        self.environment.kubeconfig_admin.clone()
    }

    /// A container that runs a script.
    pub(super) fn script(&self, script: &str) -> ContainerSpec {
        let registry = &self.environment.registry;
        let image = Image::new(Images::of_registry(&registry.address).busybox)
            .auth(RegistryAuth::new(&registry.username, &registry.password));
        ContainerSpec::new(image).command(["sh", "-c", script]).stop_grace(Duration::from_secs(2))
    }

    pub(super) async fn start(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, BoxError> {
        let container = self.runtime.create_container(spec).await?;
        container.start().await?;
        Ok(container)
    }

    /// What the API server itself lists of the scope.
    pub(super) async fn left(&self) -> Result<Vec<String>, BoxError> {
        let raw = Raw::new(&self.admin(), &self.environment.namespace).await?;
        raw.listing(&format!("{LABEL_SCOPE}={}", self.runtime.scope())).await
    }

    /// Works on the cluster beside the tests' own tasks.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cluster) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T, BoxError> {
        let cluster = self.cluster.clone();
        tokio::task::spawn_blocking(move || work(&cluster)).await?
    }

    /// Empties the scope, and asserts that it is empty.
    pub(super) async fn finish(self) -> Outcome {
        let report = self.runtime.reap(ReapOptions::default()).await?;
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        self.until_empty().await
    }

    /// Waits until nothing is left of the scope.
    pub(super) async fn until_empty(self) -> Outcome {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let left = self.left().await?;
            if left.is_empty() {
                return Ok(());
            }
            assert!(Instant::now() < end, "this is left: {left:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A wait for the end of a container, on its way.
pub(super) struct Waiter(tokio::task::JoinHandle<runtime_core::Result<Exit>>);

impl Waiter {
    pub(super) fn of(container: &Arc<dyn Container>) -> Self {
        let container = Arc::clone(container);
        Self(tokio::spawn(async move { container.wait().await }))
    }

    /// Whether it has its answer, or an error.
    pub(super) fn is_done(&self) -> bool {
        self.0.is_finished()
    }

    /// What it comes to, within so many seconds.
    pub(super) async fn answer(self, seconds: u64) -> Result<runtime_core::Result<Exit>, BoxError> {
        Ok(tokio::time::timeout(Duration::from_secs(seconds), self.0).await??)
    }
}

/// A scope that nobody has.
pub(super) fn scope() -> Scope {
    let nonce = runtime_core::Nonce::random().expect("the system gives random numbers");
    Scope::new(format!("faults-{}", &nonce.as_str()[..12])).expect("letters and digits")
}
