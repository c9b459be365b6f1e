//! containerd with its CRI plugin, from the machine's own packages or from another release's.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cgroup::Group;
use crate::engine::Engine;
use crate::instance::{Place, Plan, State};
use crate::keeper::{self, Root};
use crate::process::{Process, output};
use crate::rootfs::Content;
use crate::site::Site;
use crate::{PAUSE, packages, registry, rootfs};

/// As for Podman: the CNI library keeps its results here.
pub(crate) const HOST_FOLDERS: &[&str] = &["/var/lib/cni"];

/// Where the tests put CDI specs, for engines that read them.
const CDI_DIR: &str = "RUNTIME_TEST_CDI_DIR";

/// In the namespace's own /run.
const STATE_DIR: &str = "/run/containerd";

/// The namespace of everything that came through the CRI.
pub(crate) const NAMESPACE: &str = "k8s.io";

pub(crate) fn install(who: &str, suite: Option<&str>) -> Result<()> {
    packages::ensure(who, &["iproute2", "iptables"])?;
    match suite {
        None => packages::ensure(who, &["containerd", "runc", "containernetworking-plugins"]),
        Some(suite) => rootfs::ensure(who, suite, Content::Docker).map(drop),
    }
}

pub(crate) fn plan(place: &Place<'_>, suite: Option<&str>) -> Result<Plan> {
    let socket = place.dir.join("containerd.sock");
    let (networks, cdi) = (place.dir.join("cni"), place.dir.join("cdi"));
    fs::create_dir_all(&networks)?;
    fs::create_dir_all(&cdi)?;
    fs::write(networks.join("10-test.conflist"), network(place)?)?;
    let config = place.dir.join("config.toml");
    let data = place.dir.join("data");
    let registry = registry::address(place.site)?;
    // Version 1.6 knows no CDI. It would not mind the settings, and would not obey them.
    let with_cdi = match suite {
        Some(_) => format!("  enable_cdi = true\n  cdi_spec_dirs = [{cdi:?}]\n"),
        None => String::new(),
    };
    // Version 2 of the format is read by every version of containerd. Without CAP_SYS_RESOURCE
    // no process may get an OOM score below that of its parent: every sandbox would fail. The
    // `opt` plugin would make a folder in the host's /opt.
    fs::write(
        &config,
        format!(
            r#"version = 2
root = {data:?}
state = "{STATE_DIR}"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
  address = {socket:?}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{registry}/{PAUSE}"
  restrict_oom_score_adj = true
{with_cdi}
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = {networks:?}

[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"#
        ),
    )?;
    Ok(Plan {
        root: Some(match suite {
            None => Root::Host { empty: HOST_FOLDERS.iter().map(Into::into).collect() },
            Some(suite) => Root::System(rootfs::path(suite, Content::Docker)?),
        }),
        make_bridge: false,
        command: vec![
            "/usr/bin/containerd".to_owned(),
            "--config".to_owned(),
            config.to_string_lossy().into_owned(),
        ],
        environment: Vec::new(),
        socket: Some(socket),
        values: match suite {
            Some(_) => BTreeMap::from([(CDI_DIR.to_owned(), cdi.to_string_lossy().into_owned())]),
            None => BTreeMap::new(),
        },
    })
}

fn network(place: &Place<'_>) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(&json!({
        "cniVersion": "0.4.0",
        // It stands in the comments of the packet filter's rules.
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
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    }))?)
}

/// containerd's own tool, run beside the daemon: it has the daemon's version.
pub(crate) fn ctr(state: &State, arguments: &[&str]) -> Result<String> {
    let keeper = state.keeper.as_ref().context("no namespace is recorded")?;
    let socket = state.socket.as_deref().context("no socket is recorded")?;
    let enter = keeper::enter(keeper)?;
    output(
        Command::new(&enter[0])
            .args(&enter[1..])
            .args(["ctr", "--connect-timeout", "5s", "--address"])
            .arg(socket)
            .args(arguments),
    )
}

pub(crate) fn probe(state: &State) -> Result<String> {
    let printed = ctr(state, &["version"])?;
    // Client and server are printed in this order.
    let version = printed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Version:"))
        .next_back()
        .context("no version")?
        .trim();
    // A CRI plugin that did not load leaves the rest of containerd well.
    let plugins = ctr(state, &["plugins", "list"])?;
    let cri_is_well = plugins.lines().any(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        fields.get(1) == Some(&"cri") && fields.last() == Some(&"ok")
    });
    anyhow::ensure!(cri_is_well, "the CRI plugin is not well");
    let end = version.find(['+', '~']).unwrap_or(version.len());
    Ok(version[..end].trim_start_matches('v').to_owned())
}

/// Brings the image of empty sandboxes: containerd has no password to pull it with.
pub(crate) fn load_pause(place: &Place<'_>, state: &State) -> Result<()> {
    let (repository, _) = PAUSE.split_once(':').unwrap_or((PAUSE, ""));
    let archive = registry::image_archive(place.site, repository);
    let archive = archive.to_string_lossy();
    ctr(state, &["--namespace", NAMESPACE, "images", "import", &archive])?;
    Ok(())
}

/// Containers are in the control groups that their pods ask for: each one's own configuration
/// says which.
pub(crate) fn kill_strays(site: &Site, engine: Engine) -> Result<()> {
    let Some(keeper) = State::read(site, engine).and_then(|state| state.keeper) else {
        return Ok(());
    };
    if !keeper.is_alive() {
        return Ok(());
    }
    let limit = Duration::from_secs(20);
    for path in groups_of_containers(&keeper) {
        let group = Group::new(path.trim_start_matches('/'))?;
        group.kill_all(None, limit)?;
        group.remove(limit)?;
        // The parents too, as far as they are there for nothing else.
        let mut parent = path.trim_matches('/');
        while let Some((above, _)) = parent.rsplit_once('/') {
            parent = above;
            Group::new(parent)?.remove_if_empty();
        }
    }
    Ok(())
}

fn groups_of_containers(keeper: &Process) -> Vec<String> {
    let tasks = PathBuf::from(format!("/proc/{}/root{STATE_DIR}", keeper.pid))
        .join("io.containerd.runtime.v2.task");
    let folders = |dir: PathBuf| {
        fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
    };
    folders(tasks)
        .flat_map(folders)
        .filter_map(|bundle| {
            let config = fs::read(bundle.join("config.json")).ok()?;
            let config: Value = serde_json::from_slice(&config).ok()?;
            config["linux"]["cgroupsPath"].as_str().map(str::to_owned)
        })
        .filter(|path| path.trim_matches('/').contains('/'))
        .collect()
}
