//! The node that runs pods: its container engine, its network and its kubelet's settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::layout::{Layout, Ports};
use super::members::Members;
use crate::catalog::{BUSYBOX, ENTRY};
use crate::engine::Engine;
use crate::instance::{self, Place, Plan, State};
use crate::keeper::{self, Root};
use crate::process::{Process, run};
use crate::{cgroup, containerd, registry};

/// Folders that the kubelet and the CNI library cannot be told to do without. They are empty
/// in the node's namespace, and what is in them there goes with it. The logs of pods are below
/// `/var/log`: what leads to them on the host is seen in no node.
pub(crate) const HOST_FOLDERS: &[&str] = &["/var/lib/cni", "/var/lib/kubelet", "/var/log"];

/// Images that are on the node when it is up. [`crate::LAYERS`] is not.
const LOADED: [&str; 2] = [BUSYBOX, ENTRY];

/// The container engine is the daemon of the instance.
pub(crate) fn plan(place: &Place<'_>, values: BTreeMap<String, String>) -> Result<Plan> {
    let mut plan = containerd::plan(place, None)?;
    plan.root = Some(Root::Host { empty: HOST_FOLDERS.iter().map(Into::into).collect() });
    plan.values = values;
    Ok(plan)
}

/// Brings the images of the tests onto the node, with the password of the registry.
pub(crate) fn load_images(place: &Place<'_>, state: &State) -> Result<()> {
    containerd::load_pause(place, state)?;
    let values = instance::known(place.site, Engine::Registry)?.values;
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
    // A full disk or memory of the machine must not make the node refuse pods.
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
        // Else images vanish while tests rely on them.
        "imageGCHighThresholdPercent": 100,
        // There is no proxy on the node that would need the chains.
        "makeIPTablesUtilChains": false,
        "maxPods": MAX_PODS,
        // With the default the node is ready ten seconds later.
        "nodeStatusUpdateFrequency": "1s",
        // The score of a process without CAP_SYS_RESOURCE cannot be lowered.
        "oomScoreAdj": 0,
        // Zero, which should mean no limit, is the default of 5 for this version's client; a suite
        // has more, and its events then come minutes late.
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

/// Changes one of the kubelet's settings. It reads them when it begins.
pub(crate) fn change_kubelet_config(layout: &Layout, setting: &str, value: Value) -> Result<()> {
    let path = layout.file("kubelet.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    config[setting] = value;
    fs::write(path, serde_json::to_vec_pretty(&config)?)?;
    Ok(())
}

/// Three hundred at once are a measurement, and what ended before them still counts.
const MAX_PODS: u32 = 700;

/// Makes the parent of the pods' control groups: the kubelet wants it in every hierarchy.
pub(crate) fn make_groups(group: &str) -> Result<()> {
    for hierarchy in cgroup::hierarchies()? {
        fs::create_dir_all(hierarchy.mount.join(group.trim_start_matches('/')))?;
    }
    Ok(())
}

/// Puts the kubelet's folders on disk, where they would fill the memory otherwise.
pub(crate) fn mount_folders(layout: &Layout, state: &State) -> Result<()> {
    let Some(keeper) = &state.keeper else {
        anyhow::bail!("the node has no mount namespace");
    };
    for (folder, target) in [("kubelet", "/var/lib/kubelet"), ("pods", POD_LOGS)] {
        let source = layout.file(folder);
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

/// The kubelet tells the engine to write logs here, and nowhere else.
const POD_LOGS: &str = "/var/log/pods";

/// Lets the host see the logs of pods at the path that the engine gives for them.
///
/// Somebody who works on the node reads them there. A host that has a kubelet already keeps its
/// own folder, and our logs are then seen in the node's namespace only.
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

/// Whether a link leads to a cluster of ours that has ended without being taken down, or whose
/// folder was removed by hand.
fn is_left_over(target: &Path) -> bool {
    if !target.exists() {
        return true;
    }
    let cluster = target.parent().map(|dir| Members::read(&Layout::at(dir)));
    let Some(Ok(members)) = cluster else { return false };
    !members.by_name.values().any(|member| member.process.is_alive())
}

/// Undoes [`show_logs`], if it was this cluster that has done it.
pub(crate) fn hide_logs(layout: &Layout) -> Result<()> {
    if fs::read_link(POD_LOGS).is_ok_and(|target| target == layout.file("pods")) {
        fs::remove_file(POD_LOGS)?;
    }
    Ok(())
}
