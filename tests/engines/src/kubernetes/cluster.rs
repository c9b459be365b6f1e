//! What tests and benchmarks do with the cluster besides using it.

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

/// The cluster of a site: its parts can be taken away and given back.
///
/// It is brought up and down as [`Engine::Kubernetes`]. All of this works from any process that
/// knows the site.
#[derive(Debug, Clone)]
pub struct Cluster {
    site: Site,
}

impl Cluster {
    /// The cluster of this checkout.
    ///
    /// # Errors
    /// If the folder of the site cannot be made.
    pub fn of_checkout() -> Result<Self> {
        Ok(Self::at(&Site::of_checkout()?))
    }

    /// The cluster of this site; it need not be up.
    #[must_use]
    pub fn at(site: &Site) -> Self {
        Self { site: site.clone() }
    }

    /// Brings it up, unless it is up already.
    ///
    /// # Errors
    /// As for [`Site::up`].
    pub fn up(&self) -> Result<Running> {
        self.site.up(Engine::Kubernetes)
    }

    /// Stops it and removes everything that belongs to it; true if there was anything.
    ///
    /// # Errors
    /// If something stays.
    pub fn down(&self) -> Result<bool> {
        self.site.down(Engine::Kubernetes)
    }

    /// The kubeconfig of the administrator.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.layout().admin()
    }

    /// The kubeconfig of an account: `runtime` has the rights of the backend's Role in
    /// [`super::NAMESPACE`] and no others, `runtime-stats` may read the statistics of nodes
    /// besides.
    #[must_use]
    pub fn kubeconfig(&self, account: &str) -> PathBuf {
        self.layout().kubeconfig(account)
    }

    /// Makes another account with the rights of the Role, gives the path of its kubeconfig.
    ///
    /// # Errors
    /// If the cluster is not well.
    pub fn add_account(&self, name: &str) -> Result<PathBuf> {
        let layout = self.layout();
        access::add(&layout, Members::read(&layout)?.ports, name, false)
    }

    /// Takes the token of an account back. The API server may believe it for ten seconds more,
    /// and refuses it then as unauthenticated. [`Cluster::add_account`] gives a new one.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn revoke_account(&self, name: &str) -> Result<()> {
        access::revoke(&self.layout(), name)
    }

    /// Applies the backend's Role again, after its manifest was changed.
    ///
    /// # Errors
    /// If the API server does not take it.
    pub fn apply_role(&self) -> Result<()> {
        access::apply_manifest(&self.layout())
    }

    /// Runs `kubectl` as the administrator and gives what it prints.
    ///
    /// # Errors
    /// If it fails: its words are in the error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_as("admin", arguments, "")
    }

    /// Runs `kubectl` as an account, with this as its input, and gives what it prints.
    ///
    /// # Errors
    /// If it fails: its words are in the error.
    pub fn kubectl_as(&self, account: &str, arguments: &[&str], input: &str) -> Result<String> {
        let layout = self.layout();
        Call::of(&layout, &layout.kubeconfig(account))?
            .arguments(arguments)
            .input(input.as_bytes().to_vec())
            .run()
    }

    /// The process of a part, to be frozen and thawed or looked at.
    ///
    /// # Errors
    /// If the cluster is not up.
    pub fn process(&self, component: Component) -> Result<Process> {
        match component {
            Component::Containerd => Ok(instance::known(&self.site, Engine::Kubernetes)?.daemon),
            _ => self.member(component.name()),
        }
    }

    /// Where the words of a part go.
    #[must_use]
    pub fn log(&self, component: Component) -> PathBuf {
        match component {
            Component::Containerd => instance::log(&self.site, Engine::Kubernetes),
            _ => members::log(&self.site, component.name()),
        }
    }

    /// Kills a part as a crash would. Pods stay when the kubelet or containerd goes.
    ///
    /// # Errors
    /// If the cluster is not up.
    pub fn kill(&self, component: Component) -> Result<()> {
        self.process(component)?.kill()
    }

    /// Starts a part again, after [`Cluster::kill`] or in place of the one that runs, and waits
    /// until it is well. Ports and files are the same.
    ///
    /// # Errors
    /// If it is not well in time.
    pub fn restart(&self, component: Component) -> Result<()> {
        if component == Component::Containerd {
            return instance::restart(&self.site, Engine::Kubernetes).map(drop);
        }
        let layout = self.layout();
        let name = component.name();
        let process = members::restart(&self.site, name)?;
        let ports = Members::read(&layout)?.ports;
        members::wait_until_well(&self.site, name, &process, || component.probe(&layout, ports))
    }

    /// Changes a setting of the kubelet, which is started again with it; its pods stay. It lasts
    /// until the cluster goes down.
    ///
    /// # Errors
    /// If the node is not ready in time.
    pub fn set_kubelet(&self, setting: &str, value: Value) -> Result<()> {
        node::change_kubelet_config(&self.layout(), setting, value)?;
        self.restart(Component::Kubelet)?;
        self.wait_until_ready()
    }

    /// Waits until the node that runs pods is ready, after a fault.
    ///
    /// # Errors
    /// If it is not ready in time.
    pub fn wait_until_ready(&self) -> Result<()> {
        let layout = self.layout();
        let name = Component::ApiServer.name();
        let process = self.member(name)?;
        members::wait_until_well(&self.site, name, &process, || bring_up::ready(&layout, NODE))
    }

    /// Waits until the scheduler gives a pod to the node and its kubelet looks at it, after a fault.
    /// The pod is not one that can run, and is gone afterwards.
    ///
    /// # Errors
    /// If they do not in time.
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
        let taken = poll::until(Duration::from_secs(90), "a kubelet to look at a pod", || {
            Ok((self.kubectl(&of_pod)? == "InvalidImageName").then_some(()))
        });
        self.kubectl(&["-n", NAMESPACE, "delete", "pod", &name, "--grace-period=0", "--force"])?;
        taken
    }

    /// Makes sure that so many hollow nodes are ready and gives their names. They carry the
    /// label and the taint [`super::HOLLOW`]: only pods that tolerate it land on one. Each
    /// takes 75 MiB; the pods on it never run and end when they are told to.
    ///
    /// # Errors
    /// If they do not become ready.
    pub fn hollow_nodes(&self, count: usize) -> Result<Vec<String>> {
        hollow::add(&self.site, count)
    }

    /// Kills a hollow node as a power cut would: the cluster finds out by its silence.
    /// [`Cluster::hollow_nodes`] starts it again.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn kill_hollow_node(&self, name: &str) -> Result<()> {
        self.member(name)?.kill()
    }

    /// The process of a hollow node, to be frozen and thawed: what it runs stays meanwhile.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn hollow_node(&self, name: &str) -> Result<Process> {
        self.member(name)
    }

    /// Takes a hollow node out of the cluster.
    ///
    /// # Errors
    /// If the cluster is not well.
    pub fn remove_hollow_node(&self, name: &str) -> Result<()> {
        hollow::remove(&self.site, name)
    }

    /// Takes every hollow node out of the cluster.
    ///
    /// # Errors
    /// If the cluster is not well.
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
