//! Helpers that the tests share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_tests::{Environment, Raw};
use runtime_conformance::BoxError;
use runtime_core::{Container, ContainerSpec, LABEL_SCOPE, Runtime, async_trait};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime};
use serde_json::{Value, json};
use test_engines::Cluster;
use test_support::{Connection, busybox, until};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(super) use test_support::{Outcome, Waiter, scope};

/// Lock of the one cluster, because a fault in it affects every test. Tests that change a namespace or nodes
/// of their own, and no part of the cluster, share it.
static CLUSTER: RwLock<()> = RwLock::const_new(());

/// Guard that determines the other users of the cluster.
#[expect(dead_code, reason = "a lock is for its lifetime")]
enum Share {
    Alone(RwLockWriteGuard<'static, ()>),
    Beside(RwLockReadGuard<'static, ()>),
}

/// Connection with a scope of its own.
pub(super) struct Subject {
    pub(super) runtime: KubernetesRuntime,
    pub(super) cluster: Cluster,
    pub(super) environment: Environment,
    _share: Share,
}

impl Subject {
    /// Connects with exactly the rights of the Role, with exclusive use of the cluster.
    pub(super) async fn new() -> Result<Self, BoxError> {
        Self::with(|_, options| options).await
    }

    /// Connects with exclusive use of the cluster.
    pub(super) async fn with(
        change: impl FnOnce(&Environment, KubernetesOptions) -> KubernetesOptions,
    ) -> Result<Self, BoxError> {
        Self::sharing(Share::Alone(CLUSTER.write().await), change).await
    }

    /// Connects to a cluster that other tests use as well; their faults affect only their own nodes.
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

    /// Runs work on the cluster without blocking the tests' own tasks.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cluster) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T, BoxError> {
        let cluster = self.cluster.clone();
        tokio::task::spawn_blocking(move || work(&cluster)).await?
    }

    /// Creates an object that the library does not create.
    pub(super) async fn create(&self, object: &Value) -> Outcome {
        self.apply("create", object).await
    }

    /// Deletes an object from [`create`](Self::create).
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

    /// Returns the one pod of the scope, as the server stores it.
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
        // The items of a list omit the version and the kind.
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

/// Namespace with objects of its own, and a connection to it with all rights.
///
/// Dropping it deletes the namespace with its content, and the objects outside of it.
pub(super) struct Namespace {
    pub(super) runtime: KubernetesRuntime,
    pub(super) environment: Environment,
    pub(super) name: String,
    pub(super) raw: Raw,
    cluster: Cluster,
    /// Kinds and names of objects outside of the namespace.
    others: Vec<(&'static str, String)>,
    _shared: RwLockReadGuard<'static, ()>,
}

impl Namespace {
    /// Creates a namespace that has `objects`, each without a namespace in its metadata.
    pub(super) async fn new(objects: Vec<Value>) -> Result<Self, BoxError> {
        let shared = CLUSTER.read().await;
        let environment = Environment::read()?;
        let scope = scope();
        let name = scope.to_string();
        let cluster = Cluster::of_checkout()?;
        let admin = environment.kubeconfig_admin.clone();
        let options = environment.options(&scope).kubeconfig(&admin).namespace(&name);
        let namespace = Self {
            runtime: KubernetesRuntime::connect(options).await?,
            raw: Raw::new(&admin, &name).await?,
            environment,
            name,
            cluster,
            others: Vec::new(),
            _shared: shared,
        };
        let mut items = vec![json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace.name, "labels": {LABEL_SCOPE: namespace.name}},
        })];
        items.extend(objects.into_iter().map(|mut object| {
            object["metadata"]["namespace"] = json!(namespace.name);
            object
        }));
        namespace.create(&json!({"apiVersion": "v1", "kind": "List", "items": items})).await?;
        // A pod is refused until a controller has created the default account, and until another has counted
        // the usage of the quota.
        let api = format!("/api/v1/namespaces/{}", namespace.name);
        until("prepared namespace", async || {
            let account = namespace.raw.get(&format!("{api}/serviceaccounts/default")).await;
            let quotas = namespace.raw.get(&format!("{api}/resourcequotas")).await?;
            let mut quotas = quotas["items"].as_array().into_iter().flatten();
            Ok(account.is_ok() && quotas.all(|quota| !quota["status"]["used"].is_null()))
        })
        .await?;
        Ok(namespace)
    }

    /// Creates an object.
    pub(super) async fn create(&self, object: &Value) -> Outcome {
        self.apply(&["create", "-f", "-"], object).await
    }

    /// Sends an object that is admitted or refused, and not created.
    pub(super) async fn dry_run(&self, object: &Value) -> Outcome {
        self.apply(&["create", "--dry-run=server", "-f", "-"], object).await
    }

    async fn apply(&self, arguments: &'static [&str], object: &Value) -> Outcome {
        let (cluster, text) = (self.cluster.clone(), object.to_string());
        let work = move || cluster.kubectl_as("admin", arguments, &text);
        tokio::task::spawn_blocking(work).await??;
        Ok(())
    }

    /// Creates an object outside of the namespace, which is deleted with it.
    pub(super) async fn create_other(&mut self, kind: &'static str, object: &Value) -> Outcome {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        self.others.push((kind, name.to_owned()));
        self.create(object).await
    }

    /// Returns options of a connection to this namespace.
    pub(super) fn options(&self) -> KubernetesOptions {
        self.environment
            .options(self.runtime.scope())
            .kubeconfig(&self.environment.kubeconfig_admin)
            .namespace(&self.name)
    }

    /// Returns a container that runs a script, and exits two seconds after a stop.
    pub(super) fn script(&self, script: &str) -> ContainerSpec {
        busybox(&self.environment.registry)
            .stop_grace(Duration::from_secs(2))
            .command(["sh", "-c", script])
    }

    /// Starts a container in the background, and waits until `seen` returns `true` for its pod.
    pub(super) async fn starting(
        &self,
        spec: &ContainerSpec,
        seen: impl Fn(&Value) -> bool,
    ) -> Result<Arc<dyn Container>, BoxError> {
        let container = self.runtime.create_container(spec).await?;
        let handle = Arc::clone(&container);
        tokio::spawn(async move { handle.start().await.map(drop) });
        let id = container.id().as_str();
        until("state of the pod", async || {
            let pods = self.pods().await?;
            Ok(pods.iter().any(|pod| {
                pod["metadata"]["uid"] == id
                    && !pod["metadata"]["annotations"]["container-runtime/started-at"].is_null()
                    && seen(pod)
            }))
        })
        .await?;
        Ok(container)
    }

    /// Waits until the quotas of the namespace count nothing, because a removed pod is counted for a moment
    /// longer.
    pub(super) async fn until_quota_is_free(&self) -> Outcome {
        until("free quota", async || {
            let path = format!("/api/v1/namespaces/{}/resourcequotas", self.name);
            let quotas = self.raw.get(&path).await?;
            let mut quotas = quotas["items"].as_array().into_iter().flatten();
            Ok(quotas.all(|quota| {
                let used = quota["status"]["used"].as_object();
                used.is_some_and(|used| used.values().all(|used| used == "0"))
            }))
        })
        .await
    }

    /// Returns the pods of the namespace, as the server stores them.
    pub(super) async fn pods(&self) -> Result<Vec<Value>, BoxError> {
        let mut list = self.raw.get(&format!("/api/v1/namespaces/{}/pods", self.name)).await?;
        Ok(std::mem::take(list["items"].as_array_mut().ok_or("not a list")?))
    }

    /// Asserts that nothing of the scope is left, and closes the connection.
    pub(super) async fn finish(self) -> Outcome {
        let selector = format!("{LABEL_SCOPE}={}", self.runtime.scope());
        until("empty namespace", async || Ok(self.raw.listing(&selector).await?.is_empty()))
            .await?;
        Ok(self.runtime.close().await?)
    }
}

/// Returns `true` if the scheduler finds no node for a started pod.
pub(super) fn is_unschedulable(pod: &Value) -> bool {
    let message = pod["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
    message.contains("Insufficient cpu")
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let namespace = ("namespace", self.name.clone());
        for (kind, name) in self.others.drain(..).chain([namespace]) {
            let delete = ["delete", kind, &name, "--wait=false", "--ignore-not-found"];
            if let Err(error) = self.cluster.kubectl(&delete) {
                eprintln!("{kind} {name} was not deleted: {error:#}");
            }
        }
    }
}
