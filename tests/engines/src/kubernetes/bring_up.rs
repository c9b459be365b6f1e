//! Cluster-specific steps of an instance's lifecycle.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use super::binaries::{self, Binaries};
use super::components::{Component, Parts};
use super::kubeconfig::{self, Credentials};
use super::layout::{Layout, NAMESPACE, NODE, Ports};
use super::members::{self, Launch, Members};
use super::pki::Authority;
use super::{LOG_NAME, access, kernel, kubectl, node};
use crate::engine::Engine;
use crate::instance::{self, InstanceContext, Plan, State};
use crate::process::Process;
use crate::site::Site;
use crate::{containerd, packages};

/// File with the original machine settings that a kubelet overwrites.
const SETTINGS: &str = "kernel.json";

/// Installs missing packages, and builds Kubernetes if necessary.
pub(crate) fn install() -> Result<()> {
    containerd::install(LOG_NAME, None)?;
    packages::ensure(LOG_NAME, &["etcd-server"])?;
    binaries::ensure().map(drop)
}

/// The daemon of the instance is the node's container engine.
pub(crate) fn plan(context: &InstanceContext<'_>) -> Result<Plan> {
    let layout = Layout::of(context.site);
    let text = |name: &str| layout.kubeconfig(name).to_string_lossy().into_owned();
    let values = BTreeMap::from([
        ("RUNTIME_TEST_KUBECONFIG".to_owned(), text(access::ACCOUNT)),
        ("RUNTIME_TEST_KUBECONFIG_STATS".to_owned(), text(access::STATS_ACCOUNT)),
        ("RUNTIME_TEST_KUBECONFIG_ADMIN".to_owned(), text("admin")),
        ("RUNTIME_TEST_KUBECTL".to_owned(), binaries::find()?.path("kubectl")),
        ("RUNTIME_TEST_NAMESPACE".to_owned(), NAMESPACE.to_owned()),
        ("RUNTIME_TEST_NODE".to_owned(), NODE.to_owned()),
        ("RUNTIME_TEST_NODE_LOGS".to_owned(), layout.text("pods")),
        (
            "RUNTIME_TEST_NODE_CRI".to_owned(),
            format!("unix://{}", layout.containerd_socket().display()),
        ),
    ]);
    node::show_logs(&layout)?;
    node::plan(context, values)
}

/// Checks the engine alone before the cluster exists, and everything after that.
pub(crate) fn probe(state: &State) -> Result<String> {
    let socket = state.socket.as_deref().context("no socket is recorded")?;
    let layout = Layout::at(socket.parent().context("the socket has no directory")?);
    containerd::probe(state)?;
    if let Ok(members) = Members::read(&layout) {
        for component in Component::ALL {
            if component != Component::Containerd {
                let member = members.get(component.name())?;
                anyhow::ensure!(member.process.is_alive(), "{component} is not running");
                component.probe(&layout, members.ports)?;
            }
        }
        ready(&layout, NODE)?;
    }
    binaries::find()?.version()
}

/// Starts everything except the node's engine, which is running.
pub(crate) fn finish(context: &InstanceContext<'_>, state: &State) -> Result<()> {
    let (site, layout) = (context.site, Layout::of(context.site));
    kernel::save(&layout.file(SETTINGS))?;
    kernel::allow_forwarding(&context.bridge)?;
    node::make_groups(&context.group)?;
    node::mount_folders(&layout, state)?;
    let ports = Ports::choose(site)?;
    let binaries = binaries::find()?;
    let commands = write_files(context, &layout, ports, &binaries)?;
    Members::begin(site, ports)?;
    let launch = |component: Component| {
        let name = component.name();
        let command = commands.get(&component).cloned().unwrap_or_default();
        let keeper = state.keeper.as_ref().filter(|_| component.is_on_node());
        let environment = component.environment();
        members::launch(site, Launch { name, command, environment, keeper })
    };
    let wait = |component: Component, process: Process| {
        members::wait_until_healthy(site, component.name(), &process, || {
            component.probe(&layout, ports)
        })
    };
    std::thread::scope(|scope| {
        // Loading takes seconds, and the first pod needs the images.
        let images = scope.spawn(|| node::load_images(context, state));
        // The kubelet probes for a Docker Engine for five seconds before it connects to the API
        // server.
        let kubelet = launch(Component::Kubelet)?;
        for component in [Component::Etcd, Component::ApiServer] {
            wait(component, launch(component)?)?;
        }
        for component in [Component::ControllerManager, Component::Scheduler] {
            launch(component)?;
        }
        access::prepare(&layout, ports)?;
        wait(Component::Kubelet, kubelet.clone())?;
        images.join().map_err(|_| anyhow::anyhow!("the image loader panicked"))??;
        members::wait_until_healthy(site, Component::Kubelet.name(), &kubelet, || {
            ready(&layout, NODE)
        })
    })
}

/// Checks that the API server reports the node as ready.
pub(crate) fn ready(layout: &Layout, node: &str) -> Result<()> {
    let ready = kubectl::admin(layout)?
        .arguments(["get", "node", node, "-o"])
        .arguments(["jsonpath={.status.conditions[?(@.type==\"Ready\")].status}"])
        .run()?;
    anyhow::ensure!(ready == "True", "the node {node} is not ready ({ready:?})");
    Ok(())
}

/// Writes keys, certificates, kubeconfigs and settings; returns the command lines.
fn write_files(
    context: &InstanceContext<'_>,
    layout: &Layout,
    ports: Ports,
    binaries: &Binaries,
) -> Result<BTreeMap<Component, Vec<String>>> {
    let pki = layout.pki();
    fs::create_dir_all(layout.file("volume-plugins"))?;
    let authority = Authority::new(&pki)?;
    let server = authority.server(
        "kube-apiserver",
        &["127.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc"],
    )?;
    // The controllers share one account, which needs the rights of all of them.
    let masters = "system:masters";
    for (file, name, group) in [
        ("admin", "admin", masters),
        ("controllers", "system:kube-controller-manager", masters),
        ("scheduler", "system:kube-scheduler", "runtime-test"),
        ("kubelet", &format!("system:node:{NODE}"), "system:nodes"),
    ] {
        let identity = authority.client(file, name, group)?;
        kubeconfig::write(
            &layout.kubeconfig(file),
            &ports.server(),
            &pki,
            "default",
            &Credentials::Certificate(&identity),
        )?;
    }
    let to_kubelet = authority.client("to-kubelet", "kube-apiserver", masters)?;
    let (private, public) = authority.token_keys()?;
    node::write_kubelet_config(layout, ports, &context.group)?;
    let parts = Parts {
        layout,
        ports,
        binaries,
        server: &server,
        to_kubelet: &to_kubelet,
        token_keys: (private.to_string_lossy().into_owned(), public.to_string_lossy().into_owned()),
        service_range: SERVICES.to_owned(),
    };
    Component::ALL
        .into_iter()
        .filter(|component| *component != Component::Containerd)
        .map(|component| Ok((component, parts.command(component)?)))
        .collect()
}

/// Documentation addresses (RFC 5737): the node has no proxy, so they are never used.
const SERVICES: &str = "198.51.100.0/24";

/// Kills every process and restores the machine's settings, also after a crash.
pub(crate) fn clear(site: &Site) -> Result<()> {
    let layout = Layout::of(site);
    members::kill_all(site)?;
    // A kubelet whose starter was killed right after the start is not recorded.
    for process in instance::daemon_group(site, Engine::Kubernetes)?.processes(None) {
        let name = fs::read_to_string(format!("/proc/{}/comm", process.pid));
        if name.is_ok_and(|name| name.trim() == Component::Kubelet.name()) {
            process.kill()?;
        }
    }
    members::keep_logs(site);
    kernel::restore(&layout.file(SETTINGS))?;
    kernel::forbid_forwarding(&instance::bridge(site, Engine::Kubernetes));
    node::hide_logs(&layout)
}
