//! The real node: its container engine, network and kubelet settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::layout::{Layout, Ports};
use super::members::Members;
use crate::catalog::{BUSYBOX, ENTRY};
use crate::engine::Engine;
use crate::instance::{self, InstanceContext, Plan, State};
use crate::keeper::{self, Root};
use crate::process::{Process, run};
use crate::{cgroup, containerd, registry};

/// Directories at fixed paths of the kubelet and the CNI library. They are empty in the node's
/// namespace, and are removed with it. The logs of pods are below `/var/log`; the link to them on
/// the host is not visible in the node.
pub(crate) const HOST_DIRECTORIES: &[&str] = &["/var/lib/cni", "/var/lib/kubelet", "/var/log"];

/// Images that are loaded on the node at start. [`crate::LAYERS`] is not.
const LOADED: [&str; 2] = [BUSYBOX, ENTRY];

/// The container engine is the daemon of the instance.
pub(crate) fn plan(
    context: &InstanceContext<'_>,
    values: BTreeMap<String, String>,
) -> Result<Plan> {
    let mut plan = containerd::plan(context, None)?;
    plan.root = Some(Root::Host { empty: HOST_DIRECTORIES.iter().map(Into::into).collect() });
    plan.values = values;
    Ok(plan)
}

/// Loads the test images onto the node, with the registry's password.
pub(crate) fn load_images(context: &InstanceContext<'_>, state: &State) -> Result<()> {
    containerd::load_pause(context, state)?;
    let values = instance::known(context.site, Engine::Registry)?.values;
    let value = |name: &str| values.get(name).map(String::as_str).unwrap_or_default();
    let login = format!("{}:{}", value(registry::USER), value(registry::PASSWORD));
    for image in LOADED {
        let image = format!("{}/{image}", value(registry::ADDRESS));
        let pull = ["images", "pull", "--plain-http", "--user", &login, &image];
        containerd::ctr(state, &[&["--namespace", containerd::NAMESPACE], &pull[..]].concat())?;
    }
    Ok(())
}

/// Writes the kubelet's settings.
pub(crate) fn write_kubelet_config(layout: &Layout, ports: Ports, group: &str) -> Result<()> {
    // The node must not refuse pods because of the machine's disk or memory usage.
    let nearly_full: Value =
        ["memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available"]
            .into_iter()
            .map(|signal| (signal.to_owned(), json!("1")))
            .collect::<serde_json::Map<_, _>>()
            .into();
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "127.0.0.1",
        "port": ports.kubelet,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": super::pki::certificate(&layout.pki())},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": group,
        "evictionHard": nearly_full,
        "failSwapOn": false,
        // Image garbage collection would delete images in use by tests.
        "imageGCHighThresholdPercent": 100,
        // The node has no proxy that needs the chains.
        "makeIPTablesUtilChains": false,
        "maxPods": MAX_PODS,
        // With the default interval the node is ready ten seconds later.
        "nodeStatusUpdateFrequency": "1s",
        // Without CAP_SYS_RESOURCE a process cannot lower its score.
        "oomScoreAdj": 0,
        // Zero, documented as no limit, is the default of 5 for this version's client. The suite
        // creates more events, which would be delayed by minutes.
        "eventRecordQPS": 200,
        "eventBurst": 400,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "registryPullQPS": 0,
        "serializeImagePulls": false,
        "volumePluginDir": layout.file("volume-plugins"),
    });
    fs::write(layout.file("kubelet.json"), serde_json::to_vec_pretty(&config)?)?;
    Ok(())
}

/// Changes a kubelet setting, which takes effect at the next start.
pub(crate) fn change_kubelet_config(layout: &Layout, setting: &str, value: Value) -> Result<()> {
    let path = layout.file("kubelet.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config[setting] = value;
    fs::write(path, serde_json::to_vec_pretty(&config)?)?;
    Ok(())
}

/// Benchmarks run three hundred pods at once, and terminated pods still count.
const MAX_PODS: u32 = 700;

/// Creates the parent of the pods' control groups, which the kubelet requires in every hierarchy.
pub(crate) fn make_groups(group: &str) -> Result<()> {
    for hierarchy in cgroup::hierarchies()? {
        fs::create_dir_all(hierarchy.mount.join(group.trim_start_matches('/')))?;
    }
    Ok(())
}

/// Mounts the kubelet's directories on disk, because they would otherwise fill the memory.
pub(crate) fn mount_folders(layout: &Layout, state: &State) -> Result<()> {
    let Some(keeper) = &state.keeper else {
        anyhow::bail!("the node has no mount namespace");
    };
    for (directory, target) in [("kubelet", "/var/lib/kubelet"), ("pods", POD_LOGS)] {
        let source = layout.file(directory);
        fs::create_dir_all(&source)?;
        bind(keeper, &source, target)?;
    }
    Ok(())
}

fn bind(keeper: &Process, source: &Path, target: &str) -> Result<()> {
    let source = source.to_string_lossy();
    for step in [&["mkdir", "-p", target][..], &["mount", "--bind", &source, target]] {
        let mut command = keeper::enter(keeper)?;
        command.extend(step.iter().map(|&word| word.to_owned()));
        let arguments: Vec<_> = command[1..].iter().map(String::as_str).collect();
        run(&command[0], &arguments)?;
    }
    Ok(())
}

/// Directory in which the kubelet makes the engine write logs; not configurable.
const POD_LOGS: &str = "/var/log/pods";

/// Makes the logs of pods visible on the host at the path that the engine reports.
///
/// Processes on the node read the logs there. If the host has a kubelet, its directory is kept, and
/// the cluster's logs are visible only in the node's namespace.
pub(crate) fn show_logs(layout: &Layout) -> Result<()> {
    let target = layout.file("pods");
    fs::create_dir_all(&target)?;
    hide_logs(layout)?;
    if fs::read_link(POD_LOGS).is_ok_and(|target| is_left_over(&target)) {
        fs::remove_file(POD_LOGS)?;
    }
    match std::os::unix::fs::symlink(&target, POD_LOGS) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => Ok(other?),
    }
}

/// Returns true if a link points to a cluster that was not stopped properly, or whose directory was
/// deleted manually.
fn is_left_over(target: &Path) -> bool {
    if !target.exists() {
        return true;
    }
    let cluster = target.parent().map(|dir| Members::read(&Layout::at(dir)));
    let Some(Ok(members)) = cluster else { return false };
    !members.by_name.values().any(|member| member.process.is_alive())
}

/// Reverts [`show_logs`], if this cluster created the link.
pub(crate) fn hide_logs(layout: &Layout) -> Result<()> {
    if fs::read_link(POD_LOGS).is_ok_and(|target| target == layout.file("pods")) {
        fs::remove_file(POD_LOGS)?;
    }
    Ok(())
}
