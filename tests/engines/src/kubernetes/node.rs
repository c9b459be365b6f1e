//! The node that runs pods: its container engine, its network and its kubelet's settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::layout::{Layout, Ports};
use crate::catalog::{BUSYBOX, ENTRY, PAUSE};
use crate::engine::Engine;
use crate::instance::{self, Place, Plan, State};
use crate::keeper::{self, Root};
use crate::process::{Process, run};
use crate::site::Site;
use crate::{cgroup, registry};

/// Folders that the kubelet and the CNI library cannot be told to do without. They are empty
/// in the node's namespace, and what is in them there goes with it.
pub(crate) const HOST_FOLDERS: &[&str] =
    &["/var/lib/cni", "/var/lib/kubelet", "/var/log/containers"];

/// Images that are on the node when it is up. [`crate::LAYERS`] is not.
const LOADED: [&str; 2] = [BUSYBOX, ENTRY];

/// Where containerd keeps the images and containers of Kubernetes.
const CRI_NAMESPACE: &str = "k8s.io";

/// The container engine is the daemon of the instance.
pub(crate) fn plan(place: &Place<'_>, values: BTreeMap<String, String>) -> Result<Plan> {
    let layout = Layout::of(place.site);
    let config = layout.file("containerd.toml");
    let networks = layout.file("cni");
    fs::create_dir_all(&networks)?;
    fs::write(networks.join("10-test.conflist"), network(place)?)?;
    let registry = instance::known(place.site, Engine::Registry)?;
    let address = registry.values.get(registry::ADDRESS).context("an incomplete record")?;
    let pause = format!("{address}/{PAUSE}");
    fs::write(&config, containerd(&layout, &pause))?;
    Ok(Plan {
        root: Some(Root::Host { empty: HOST_FOLDERS.iter().map(Into::into).collect() }),
        make_bridge: false,
        command: vec![
            "/usr/bin/containerd".to_owned(),
            "--config".to_owned(),
            config.to_string_lossy().into_owned(),
        ],
        environment: Vec::new(),
        socket: Some(layout.containerd_socket()),
        values,
    })
}

fn containerd(layout: &Layout, pause: &str) -> String {
    format!(
        r#"version = 2
root = {root:?}
# In the namespace's own /run: short paths for sockets, and gone with it.
state = "/run/containerd"

[grpc]
  address = {socket:?}

[plugins."io.containerd.internal.v1.opt"]
  path = {opt:?}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {pause:?}
  # Without CAP_SYS_RESOURCE nobody may lower the score of a process, and runc fails.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = {networks:?}

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"#,
        root = layout.text("containerd"),
        socket = layout.text("containerd.sock"),
        opt = layout.text("opt"),
        networks = layout.text("cni"),
    )
}

fn network(place: &Place<'_>) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(&json!({
        "cniVersion": "0.4.0",
        // It stands in the packet filter's comments.
        "name": place.bridge,
        "plugins": [
            {
                "type": "bridge",
                "bridge": place.bridge,
                "isGateway": true,
                "hairpinMode": true,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni/networks",
                    "ranges": [[{"subnet": place.subnet.network()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    }))?)
}

/// Whether containerd answers.
pub(crate) fn probe(socket: &Path) -> Result<()> {
    ctr(socket, &["version"]).map(drop)
}

fn ctr(socket: &Path, arguments: &[&str]) -> Result<String> {
    let socket = socket.to_string_lossy();
    let mut all = vec!["--address", &*socket, "--namespace", CRI_NAMESPACE];
    all.extend(arguments);
    run("ctr", &all)
}

/// Brings the images of the tests onto the node.
///
/// The one of the sandboxes is imported, because a kubelet has no password for it; the others
/// come from the registry.
pub(crate) fn load_images(site: &Site) -> Result<()> {
    let socket = Layout::of(site).containerd_socket();
    let pause = PAUSE.split(':').next().unwrap_or(PAUSE);
    ctr(&socket, &["images", "import", &registry::image_archive(site, pause).to_string_lossy()])?;
    let values = instance::known(site, Engine::Registry)?.values;
    let value = |name: &str| values.get(name).map(String::as_str).unwrap_or_default();
    let login = format!("{}:{}", value(registry::USER), value(registry::PASSWORD));
    for image in LOADED {
        let image = format!("{}/{image}", value(registry::ADDRESS));
        ctr(&socket, &["images", "pull", "--plain-http", "--user", &login, &image])?;
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
        "eventRecordQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "registryPullQPS": 0,
        "serializeImagePulls": false,
        "volumePluginDir": layout.file("volume-plugins"),
    });
    fs::write(layout.file("kubelet.json"), serde_json::to_vec_pretty(&config)?)?;
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
    let mut command = keeper::enter(keeper)?;
    let source = source.to_string_lossy();
    command.extend(["mount", "--bind", &source, target].map(str::to_owned));
    let arguments: Vec<_> = command[1..].iter().map(String::as_str).collect();
    run(&command[0], &arguments).map(drop)
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
    if fs::symlink_metadata(POD_LOGS).is_ok() && !fs::exists(POD_LOGS)? {
        // It leads to a cluster whose folder was removed by hand.
        fs::remove_file(POD_LOGS)?;
    }
    match std::os::unix::fs::symlink(&target, POD_LOGS) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => Ok(other?),
    }
}

/// Undoes [`show_logs`], if it was this cluster that has done it.
pub(crate) fn hide_logs(layout: &Layout) -> Result<()> {
    if fs::read_link(POD_LOGS).is_ok_and(|target| target == layout.file("pods")) {
        fs::remove_file(POD_LOGS)?;
    }
    Ok(())
}
