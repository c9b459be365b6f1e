//! What the tests share.

use std::path::PathBuf;
use std::time::Duration;

use k8s_tests::{Environment, Raw};
use runtime_conformance::BoxError;
use runtime_core::{ContainerSpec, LABEL_SCOPE, Runtime, async_trait};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime};
use serde_json::{Value, json};
use test_engines::Cluster;
use test_support::{Connection, busybox};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(super) use test_support::{Outcome, Waiter, scope};

/// There is one cluster, and a fault in it is one for everybody.
static CLUSTER: RwLock<()> = RwLock::const_new(());

/// Who else may use the cluster meanwhile.
#[expect(dead_code, reason = "a lock is for its lifetime")]
enum Share {
    Alone(RwLockWriteGuard<'static, ()>),
    Beside(RwLockReadGuard<'static, ()>),
}

/// A connection with a scope of its own.
pub(super) struct Subject {
    pub(super) runtime: KubernetesRuntime,
    pub(super) cluster: Cluster,
    pub(super) environment: Environment,
    _share: Share,
}

impl Subject {
    /// With exactly the rights of the Role, to a cluster that nobody else uses meanwhile.
    pub(super) async fn new() -> Result<Self, BoxError> {
        Self::with(|_, options| options).await
    }

    /// To a cluster that nobody else uses meanwhile.
    pub(super) async fn with(
        change: impl FnOnce(&Environment, KubernetesOptions) -> KubernetesOptions,
    ) -> Result<Self, BoxError> {
        Self::sharing(Share::Alone(CLUSTER.write().await), change).await
    }

    /// To a cluster that others use, too, who disturb nobody: their faults are on nodes of their own.
    pub(super) async fn beside_others(
        change: impl FnOnce(&Environment, KubernetesOptions) -> KubernetesOptions,
    ) -> Result<Self, BoxError> {
        Self::sharing(Share::Beside(CLUSTER.read().await), change).await
    }

    async fn sharing(
        share: Share,
        change: impl FnOnce(&Environment, KubernetesOptions) -> KubernetesOptions,
    ) -> Result<Self, BoxError> {
        let environment = Environment::read()?;
        let options = change(&environment, environment.options(&scope()));
        let runtime = KubernetesRuntime::connect(options).await?;
        Ok(Self { runtime, cluster: Cluster::of_checkout()?, environment, _share: share })
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

    /// Makes something that this library makes none of.
    pub(super) async fn create(&self, object: &Value) -> Outcome {
        self.apply("create", object).await
    }

    /// Deletes what was made so.
    pub(super) async fn delete(&self, object: &Value) -> Outcome {
        self.apply("delete", object).await
    }

    async fn apply(&self, verb: &'static str, object: &Value) -> Outcome {
        let text = object.to_string();
        let work = move |cluster: &Cluster| {
            cluster.kubectl_as("admin", &[verb, "-f", "-"], &text)?;
            Ok(())
        };
        self.work(work).await
    }

    /// The one pod of the scope, as the server has it.
    pub(super) async fn pod(&self) -> Result<Value, BoxError> {
        let namespace = &self.environment.namespace;
        let raw = Raw::new(&self.admin(), namespace).await?;
        let scope = self.runtime.scope();
        let path =
            format!("/api/v1/namespaces/{namespace}/pods?labelSelector={LABEL_SCOPE}%3D{scope}");
        let mut pod = raw.get(&path).await?["items"][0].take();
        if pod.is_null() {
            return Err("no pod".into());
        }
        // A list says that once for all.
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        Ok(pod)
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
