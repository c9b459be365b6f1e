//! Administration of the cluster for tests and benchmarks.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::components::Component;
use super::kubectl::Call;
use super::layout::{Layout, NAMESPACE, NODE};
use super::members::{self, Members};
use super::{access, bring_up, hollow, node};
use crate::engine::Engine;
use crate::instance;
use crate::poll;
use crate::process::Process;
use crate::running::Running;
use crate::site::Site;

/// The cluster of a site, whose components can be killed and restarted.
///
/// It is started and stopped as [`Engine::Kubernetes`]. All methods work from any process that has
/// the site.
#[derive(Debug, Clone)]
pub struct Cluster {
    site: Site,
}

impl Cluster {
    /// Returns the cluster of this checkout.
    ///
    /// # Errors
    /// If the site's directory cannot be created.
    pub fn of_checkout() -> Result<Self> {
        Ok(Self::at(&Site::of_checkout()?))
    }

    /// Returns the cluster of this site, running or not.
    #[must_use]
    pub fn at(site: &Site) -> Self {
        Self { site: site.clone() }
    }

    /// Starts the cluster, unless it is running.
    ///
    /// # Errors
    /// Same as [`Site::up`].
    pub fn up(&self) -> Result<Running> {
        self.site.up(Engine::Kubernetes)
    }

    /// Stops the cluster and removes everything that belongs to it; returns true if there was
    /// anything.
    ///
    /// # Errors
    /// If anything remains.
    pub fn down(&self) -> Result<bool> {
        self.site.down(Engine::Kubernetes)
    }

    /// Returns the kubeconfig of the administrator.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.layout().admin()
    }

    /// Returns the kubeconfig of an account: `runtime` has only the rights of the backend's Role in
    /// [`super::NAMESPACE`]; `runtime-stats` can also read the statistics of nodes.
    #[must_use]
    pub fn kubeconfig(&self, account: &str) -> PathBuf {
        self.layout().kubeconfig(account)
    }

    /// Creates another account with the rights of the Role; returns the path of its kubeconfig.
    ///
    /// # Errors
    /// If the cluster is not healthy.
    pub fn add_account(&self, name: &str) -> Result<PathBuf> {
        let layout = self.layout();
        access::add(&layout, Members::read(&layout)?.ports, name, false)
    }

    /// Revokes the token of an account. The API server may accept it for ten more seconds, and then
    /// refuses it as unauthenticated. [`Cluster::add_account`] creates a new one.
    ///
    /// # Errors
    /// If the account does not exist.
    pub fn revoke_account(&self, name: &str) -> Result<()> {
        access::revoke(&self.layout(), name)
    }

    /// Applies the backend's Role again, after a change of the manifest.
    ///
    /// # Errors
    /// If the API server refuses the manifest.
    pub fn apply_role(&self) -> Result<()> {
        access::apply_manifest(&self.layout())
    }

    /// Runs `kubectl` as administrator; returns its output.
    ///
    /// # Errors
    /// If the command fails, with its stderr.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_as("admin", arguments, "")
    }

    /// Runs `kubectl` as an account with this input; returns its output.
    ///
    /// # Errors
    /// If the command fails, with its stderr.
    pub fn kubectl_as(&self, account: &str, arguments: &[&str], input: &str) -> Result<String> {
        let layout = self.layout();
        Call::of(&layout, &layout.kubeconfig(account))?
            .arguments(arguments)
            .input(input.as_bytes().to_vec())
            .run()
    }

    /// Returns the process of a component, for freezing and inspection.
    ///
    /// # Errors
    /// If the cluster is not up.
    pub fn process(&self, component: Component) -> Result<Process> {
        match component {
            Component::Containerd => Ok(instance::known(&self.site, Engine::Kubernetes)?.daemon),
            _ => self.member(component.name()),
        }
    }

    /// Returns the path of a component's log.
    #[must_use]
    pub fn log(&self, component: Component) -> PathBuf {
        match component {
            Component::Containerd => instance::log(&self.site, Engine::Kubernetes),
            _ => members::log(&self.site, component.name()),
        }
    }

    /// Kills a component like a crash. Pods survive a kill of the kubelet or of containerd.
    ///
    /// # Errors
    /// If the cluster is not up.
    pub fn kill(&self, component: Component) -> Result<()> {
        self.process(component)?.kill()
    }

    /// Starts a killed component, or restarts a running one, and waits until it is healthy. Ports
    /// and files do not change.
    ///
    /// # Errors
    /// If the component is not healthy in time.
    pub fn restart(&self, component: Component) -> Result<()> {
        if component == Component::Containerd {
            return instance::restart(&self.site, Engine::Kubernetes).map(drop);
        }
        let layout = self.layout();
        let name = component.name();
        let process = members::restart(&self.site, name)?;
        let ports = Members::read(&layout)?.ports;
        members::wait_until_healthy(&self.site, name, &process, || component.probe(&layout, ports))
    }

    /// Changes a setting of the kubelet and restarts it; its pods survive. The setting is lost when
    /// the cluster stops.
    ///
    /// # Errors
    /// If the node is not ready in time.
    pub fn set_kubelet(&self, setting: &str, value: Value) -> Result<()> {
        node::change_kubelet_config(&self.layout(), setting, value)?;
        self.restart(Component::Kubelet)?;
        self.wait_until_ready()
    }

    /// Waits until the real node is ready, after a fault.
    ///
    /// # Errors
    /// If the node is not ready in time.
    pub fn wait_until_ready(&self) -> Result<()> {
        let layout = self.layout();
        let name = Component::ApiServer.name();
        let process = self.member(name)?;
        members::wait_until_healthy(&self.site, name, &process, || bring_up::ready(&layout, NODE))
    }

    /// Waits until the scheduler assigns a pod to the node and its kubelet handles the pod, after a
    /// fault. The pod cannot run and is deleted afterwards.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub fn wait_until_it_takes_pods(&self) -> Result<()> {
        let name = format!("taken-{}", std::process::id());
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": "!nothing"}],
            },
        });
        let create = ["create", "--validate=false", "-f", "-"];
        self.kubectl_as("admin", &create, &pod.to_string())?;
        let waits = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        let of_pod = ["-n", NAMESPACE, "get", "pod", &name, "-o", waits];
        let taken = poll::until(Duration::from_secs(90), "a kubelet to handle a pod", || {
            Ok((self.kubectl(&of_pod)? == "InvalidImageName").then_some(()))
        });
        self.kubectl(&["-n", NAMESPACE, "delete", "pod", &name, "--grace-period=0", "--force"])?;
        taken
    }

    /// Starts hollow nodes until `count` are ready; returns their names. They have the label and
    /// the taint [`super::HOLLOW`], so only pods that tolerate it are scheduled on them. Each takes
    /// 75 MiB; their pods never run, and end when they are deleted.
    ///
    /// # Errors
    /// If they do not become ready.
    pub fn hollow_nodes(&self, count: usize) -> Result<Vec<String>> {
        hollow::add(&self.site, count)
    }

    /// Kills a hollow node like a power failure: the cluster detects it by its missing status.
    /// [`Cluster::hollow_nodes`] starts it again.
    ///
    /// # Errors
    /// If the node does not exist.
    pub fn kill_hollow_node(&self, name: &str) -> Result<()> {
        self.member(name)?.kill()
    }

    /// Returns the process of a hollow node, for freezing; its pods survive that.
    ///
    /// # Errors
    /// If the node does not exist.
    pub fn hollow_node(&self, name: &str) -> Result<Process> {
        self.member(name)
    }

    /// Removes a hollow node from the cluster.
    ///
    /// # Errors
    /// If the cluster is not healthy.
    pub fn remove_hollow_node(&self, name: &str) -> Result<()> {
        hollow::remove(&self.site, name)
    }

    /// Removes all hollow nodes from the cluster.
    ///
    /// # Errors
    /// If the cluster is not healthy.
    pub fn remove_hollow_nodes(&self) -> Result<()> {
        for name in hollow::all(&self.site)? {
            hollow::remove(&self.site, &name)?;
        }
        Ok(())
    }

    fn layout(&self) -> Layout {
        Layout::of(&self.site)
    }

    fn member(&self, name: &str) -> Result<Process> {
        Ok(Members::read(&self.layout())?.get(name)?.process.clone())
    }
}
