//! What the tests share.

use std::path::PathBuf;
use std::time::Duration;

use k8s_tests::{Environment, Raw};
use runtime_conformance::BoxError;
use runtime_core::{ContainerSpec, LABEL_SCOPE, Runtime, async_trait};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime};
use test_engines::Cluster;
use test_support::{Connection, busybox};
use tokio::sync::{Mutex, MutexGuard};

pub(super) use test_support::{Outcome, Waiter, scope};

/// There is one cluster, and a fault in it is one for everybody.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A connection with a scope of its own, to a cluster that nobody else uses meanwhile.
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

    /// Works on the cluster beside the tests' own tasks.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cluster) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T, BoxError> {
        let cluster = self.cluster.clone();
        tokio::task::spawn_blocking(move || work(&cluster)).await?
    }
}

#[async_trait]
impl Connection for Subject {
    const BACKEND: &'static str = "kubernetes";

    fn runtime(&self) -> &dyn Runtime {
        &self.runtime
    }

    fn spec(&self) -> ContainerSpec {
        busybox(&self.environment.registry).stop_grace(Duration::from_secs(2))
    }

    async fn left(&self) -> Result<Vec<String>, BoxError> {
        let raw = Raw::new(&self.admin(), &self.environment.namespace).await?;
        raw.listing(&format!("{LABEL_SCOPE}={}", self.runtime.scope())).await
    }
}
