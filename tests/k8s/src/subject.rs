//! Cluster under test.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime_conformance::{BoxError, Difference, EngineControl, Images, Registry, Subject};
use runtime_core::{LABEL_SCOPE, Runtime, Scope, async_trait};
use runtime_k8s::{CpuShares, KubernetesOptions, KubernetesRuntime, StatsSource};
use test_engines::{Cluster, Component};
use test_support::environment::{self, variable};
use tokio::sync::{OnceCell, watch};

use crate::Raw;
use crate::relay::Watches;
use crate::translator::Translator;

/// Cluster and registry from the variables that `cargo xtask env up kubernetes` prints.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Kubeconfig of the account with exactly the Role in the backend's `role.yaml`.
    pub kubeconfig: PathBuf,
    /// Kubeconfig of an account that also has the ClusterRole for stats.
    pub kubeconfig_stats: PathBuf,
    /// Kubeconfig of an account with all rights.
    pub kubeconfig_admin: PathBuf,
    /// Namespace of the tests.
    pub namespace: String,
    /// Registry with its login.
    pub registry: Registry,
    /// Directory of the node that this process sees at the same path.
    pub shared: PathBuf,
    /// Node that runs pods.
    pub node: String,
    /// Container engine of the node's kubelet.
    pub node_engine: String,
    /// Directory of the node's pod logs.
    pub node_logs: PathBuf,
}

impl Environment {
    /// Reads the variables.
    ///
    /// # Errors
    /// If a variable is missing: a test fails without an engine.
    pub fn read() -> Result<Self, BoxError> {
        Ok(Self {
            kubeconfig: variable("RUNTIME_TEST_KUBECONFIG")?.into(),
            kubeconfig_stats: variable("RUNTIME_TEST_KUBECONFIG_STATS")?.into(),
            kubeconfig_admin: variable("RUNTIME_TEST_KUBECONFIG_ADMIN")?.into(),
            namespace: variable("RUNTIME_TEST_NAMESPACE")?,
            registry: environment::registry()?,
            shared: environment::shared_dir()?,
            node: variable("RUNTIME_TEST_NODE")?,
            node_engine: variable("RUNTIME_TEST_NODE_CRI")?,
            node_logs: variable("RUNTIME_TEST_NODE_LOGS")?.into(),
        })
    }

    /// Returns options with the minimum of rights, and with budgets that suit a test.
    #[must_use]
    pub fn options(&self, scope: &Scope) -> KubernetesOptions {
        KubernetesOptions::new(scope.clone())
            .kubeconfig(&self.kubeconfig)
            .namespace(&self.namespace)
            // A node's first attempt may be sent without the login. The next ones follow ten and thirty
            // seconds later.
            .pull_budget(Duration::from_secs(45))
            .schedule_budget(Duration::from_secs(60))
            .start_budget(Duration::from_secs(30))
    }
}

/// Cluster under test, with the way to reach it.
#[derive(Debug)]
pub struct KubernetesSubject {
    environment: Environment,
    control: Option<Control>,
    way: Way,
}

/// Way to reach the cluster.
#[derive(Debug)]
enum Way {
    /// Directly, with exactly the Role.
    Plain,
    /// With the additional right to read statistics through the nodes.
    Stats,
    /// All pods are bound to the one node, whose engine is used directly.
    Node,
    /// Through a proxy that adds scheduling gates, with its kubeconfig once it is started.
    Gates(OnceCell<tempfile::TempPath>),
    /// Through a relay that accepts WebSockets, with its kubeconfig once it is started.
    WebSocket(OnceCell<tempfile::TempPath>),
    /// Through the WebSocket handler of current API servers.
    Translator(Translator),
}

impl KubernetesSubject {
    /// Creates the subject for the cluster of the environment.
    ///
    /// # Errors
    /// If a variable is missing.
    pub fn from_env() -> Result<Self, BoxError> {
        let environment = Environment::read()?;
        let control = Control::of(&environment);
        Ok(Self { environment, control, way: Way::Plain })
    }

    /// Creates the subject for an account that may read statistics through the nodes.
    ///
    /// # Errors
    /// If a variable is missing.
    pub fn stats_from_env() -> Result<Self, BoxError> {
        Ok(Self { way: Way::Stats, ..Self::from_env()? })
    }

    /// Creates the subject for the one node of the cluster of the environment, with its container engine.
    ///
    /// # Errors
    /// If a variable is missing.
    pub fn node_from_env() -> Result<Self, BoxError> {
        Ok(Self { way: Way::Node, ..Self::from_env()? })
    }

    /// Creates the subject for the cluster of the environment behind an API server that accepts WebSockets,
    /// see `relay.rs`.
    ///
    /// # Errors
    /// If a variable is missing.
    pub fn websocket_from_env() -> Result<Self, BoxError> {
        Ok(Self { way: Way::WebSocket(OnceCell::new()), ..Self::from_env()? })
    }

    /// Creates the subject for the cluster of the environment behind a proxy that adds scheduling gates, see
    /// `gates.rs`.
    ///
    /// # Errors
    /// If a variable is missing.
    pub fn gates_from_env() -> Result<Self, BoxError> {
        Ok(Self { way: Way::Gates(OnceCell::new()), ..Self::from_env()? })
    }

    /// Creates the subject for the cluster of the environment behind the WebSocket code of a current
    /// Kubernetes, see `translator.rs`. Builds the program first if it is missing.
    ///
    /// # Errors
    /// If a variable is missing, or if the program cannot be built or started.
    pub fn translator_from_env() -> Result<Self, BoxError> {
        let subject = Self::from_env()?;
        let translator = Translator::start(&subject.environment.kubeconfig)?;
        Ok(Self { way: Way::Translator(translator), ..subject })
    }
}

#[async_trait]
impl Subject for KubernetesSubject {
    fn engine(&self) -> String {
        match self.way {
            Way::Plain => "kubernetes-role",
            // All features of a cluster: the column of the README.
            Way::Stats => "kubernetes",
            Way::Node => "kubernetes-node",
            Way::Gates(_) => "kubernetes-gates",
            Way::WebSocket(_) => "kubernetes-websocket",
            Way::Translator(_) => "kubernetes-translator",
        }
        .to_owned()
    }

    async fn connect(&self, scope: &Scope) -> runtime_core::Result<Arc<dyn Runtime>> {
        let environment = &self.environment;
        let options = environment.options(scope).cpu_shares(CpuShares::AsRequest);
        let options = match &self.way {
            Way::Plain => options,
            Way::Stats => {
                options.kubeconfig(&environment.kubeconfig_stats).stats(StatsSource::NodeProxy)
            }
            Way::Node => {
                let Environment { node, node_engine, node_logs, .. } = environment;
                options.node(node).node_engine(node_engine).node_logs(node_logs)
            }
            Way::Gates(proxy) => {
                let proxy = proxy.get_or_try_init(|| gated(environment)).await;
                let proxy = proxy.map_err(|error| {
                    runtime_core::Error::internal("the proxy did not start").with_source(error)
                })?;
                options.kubeconfig(proxy.to_path_buf())
            }
            Way::WebSocket(relay) => {
                let relay = relay.get_or_try_init(|| relayed(environment)).await;
                let relay = relay.map_err(|error| {
                    runtime_core::Error::internal("the relay did not start").with_source(error)
                })?;
                options.kubeconfig(relay.to_path_buf())
            }
            Way::Translator(translator) => options.kubeconfig(translator.kubeconfig()),
        };
        Ok(Arc::new(KubernetesRuntime::connect(options).await?))
    }

    fn images(&self) -> Images {
        Images::of_registry(&self.environment.registry.address)
    }

    fn registry(&self) -> Registry {
        self.environment.registry.clone()
    }

    async fn push_image(&self, name: &str) -> Result<String, BoxError> {
        test_support::push_image(name).await
    }

    /// The API has no call for the images of a node.
    async fn forget_image(&self, _reference: &str) -> Result<bool, BoxError> {
        Ok(false)
    }

    fn shared_dir(&self) -> Option<PathBuf> {
        Some(self.environment.shared.clone())
    }

    fn published_address(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    async fn leftovers(&self, scope: &Scope) -> Result<Vec<String>, BoxError> {
        let Environment { kubeconfig_admin, namespace, .. } = &self.environment;
        let raw = Raw::new(kubeconfig_admin, namespace).await?;
        raw.listing(&format!("{LABEL_SCOPE}={scope}")).await
    }

    fn control(&self) -> Option<&dyn EngineControl> {
        self.control.as_ref().map(|control| control as &dyn EngineControl)
    }

    fn secrets(&self) -> Vec<String> {
        let Environment { kubeconfig, kubeconfig_stats, registry, .. } = &self.environment;
        let tokens = [kubeconfig, kubeconfig_stats].into_iter().flat_map(|path| tokens(path));
        tokens.chain([registry.password.clone()]).collect()
    }

    fn differences(&self) -> Vec<Difference> {
        match self.way {
            Way::Translator(_) => crate::differences::translated(),
            _ => crate::differences::all(),
        }
    }

    /// Pods are slow rather than expensive: with four cases, half of two cores is idle.
    fn parallelism(&self) -> usize {
        4
    }
}

/// Starts a relay in this process and returns its kubeconfig.
async fn relayed(environment: &Environment) -> Result<tempfile::TempPath, BoxError> {
    let address = crate::relay::serve(&environment.kubeconfig, None, Vec::new()).await?;
    kubeconfig_of(&address.to_string())
}

/// Starts a proxy with scheduling gates in this process and returns its kubeconfig.
async fn gated(environment: &Environment) -> Result<tempfile::TempPath, BoxError> {
    let Environment { kubeconfig, kubeconfig_admin, node, .. } = environment;
    let address = crate::gates::serve(kubeconfig, kubeconfig_admin, node).await?;
    kubeconfig_of(&address.to_string())
}

impl Environment {
    /// Starts a relay in this process whose watches can be controlled. Returns a kubeconfig with the minimum
    /// of rights.
    ///
    /// # Errors
    /// If the relay cannot be started.
    pub async fn forgetful(
        &self,
    ) -> Result<(tempfile::TempPath, watch::Sender<Watches>), BoxError> {
        let (sender, watches) = watch::channel(Watches::Pass);
        let address = crate::relay::serve(&self.kubeconfig, Some(watches), Vec::new()).await?;
        Ok((kubeconfig_of(&address.to_string())?, sender))
    }

    /// Starts a relay in this process that adds these containers to each pod, and scheduling gates if `gates`
    /// is set. Returns a kubeconfig with the minimum of rights.
    ///
    /// # Errors
    /// If the relay cannot be started.
    pub async fn with_sidecars(
        &self,
        sidecars: Vec<serde_json::Value>,
        gates: bool,
    ) -> Result<tempfile::TempPath, BoxError> {
        let gated = if gates { Some(gated(self).await?) } else { None };
        let kubeconfig = gated.as_deref().unwrap_or(&self.kubeconfig);
        let address = crate::relay::serve(kubeconfig, None, sidecars).await?;
        kubeconfig_of(&address.to_string())
    }
}

/// Writes a kubeconfig for a server on this host that sets the rights of its callers itself.
pub(crate) fn kubeconfig_of(address: &str) -> Result<tempfile::TempPath, BoxError> {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "relay",
        "clusters": [{"name": "relay", "cluster": {"server": format!("http://{address}")}}],
        "contexts": [{"name": "relay", "context": {"cluster": "relay", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
    });
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), config.to_string())?;
    Ok(file.into_temp_path())
}

/// Control that kills and restarts the API server of a cluster that this checkout has started.
#[derive(Debug, Clone)]
struct Control;

impl Control {
    /// Returns `None` for a cluster that this checkout has not started, because it must not be killed.
    fn of(environment: &Environment) -> Option<Self> {
        let cluster = Cluster::of_checkout().ok()?;
        (cluster.kubeconfig("runtime") == environment.kubeconfig).then_some(Self)
    }
}

#[async_trait]
impl EngineControl for Control {
    async fn kill(&self) -> Result<(), BoxError> {
        let work = || Cluster::of_checkout()?.kill(Component::ApiServer);
        Ok(tokio::task::spawn_blocking(work).await??)
    }

    async fn start(&self) -> Result<(), BoxError> {
        let work = || {
            let cluster = Cluster::of_checkout()?;
            cluster.restart(Component::ApiServer)?;
            // Without this restart they recover up to half a minute later.
            cluster.restart(Component::Scheduler)?;
            cluster.wait_until_it_takes_pods()
        };
        Ok(tokio::task::spawn_blocking(work).await??)
    }
}

/// Returns the tokens in a kubeconfig.
fn tokens(kubeconfig: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(kubeconfig).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let users = config["users"].as_array().into_iter().flatten();
    users.filter_map(|user| user["user"]["token"].as_str().map(str::to_owned)).collect()
}
