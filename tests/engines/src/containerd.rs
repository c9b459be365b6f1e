//! containerd with its CRI plugin, from the packages of this Debian release or of another one.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cgroup::Group;
use crate::engine::Engine;
use crate::instance::{InstanceContext, Plan, State};
use crate::keeper::{self, Root};
use crate::process::{Process, output};
use crate::rootfs::Content;
use crate::site::Site;
use crate::{PAUSE, packages, registry, rootfs};

/// Directory in which the CNI library keeps its results, as for Podman.
pub(crate) const HOST_DIRECTORIES: &[&str] = &["/var/lib/cni"];

/// Variable with the directory of CDI specs, for engines that support CDI.
const CDI_DIR: &str = "RUNTIME_TEST_CDI_DIR";

/// In the mount namespace's own /run.
const STATE_DIR: &str = "/run/containerd";

/// containerd namespace of the CRI.
pub(crate) const NAMESPACE: &str = "k8s.io";

pub(crate) fn install(label: &str, suite: Option<&str>) -> Result<()> {
    packages::ensure(label, &["iproute2", "iptables"])?;
    match suite {
        None => packages::ensure(label, &["containerd", "runc", "containernetworking-plugins"]),
        Some(suite) => rootfs::ensure(label, suite, Content::Docker).map(drop),
    }
}

pub(crate) fn plan(context: &InstanceContext<'_>, suite: Option<&str>) -> Result<Plan> {
    let socket = context.dir.join("containerd.sock");
    let (networks, cdi) = (context.dir.join("cni"), context.dir.join("cdi"));
    fs::create_dir_all(&networks)?;
    fs::create_dir_all(&cdi)?;
    fs::write(networks.join("10-test.conflist"), network(context)?)?;
    let config = context.dir.join("config.toml");
    let data = context.dir.join("data");
    let registry = registry::address(context.site)?;
    // Version 1.6 does not support CDI and ignores the settings.
    let with_cdi = match suite {
        Some(_) => format!("  enable_cdi = true\n  cdi_spec_dirs = [{cdi:?}]\n"),
        None => String::new(),
    };
    // Every version of containerd supports version 2 of the format. Without CAP_SYS_RESOURCE, an
    // OOM score below that of the parent is refused, which would fail every sandbox. The `opt`
    // plugin would create a directory in the host's /opt.
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
            None => Root::Host { empty: HOST_DIRECTORIES.iter().map(Into::into).collect() },
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

fn network(context: &InstanceContext<'_>) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(&json!({
        "cniVersion": "0.4.0",
        // The name is part of the comments of the packet filter rules.
        "name": context.bridge,
        "plugins": [
            {
                "type": "bridge",
                "bridge": context.bridge,
                "isGateway": true,
                "hairpinMode": true,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni/networks",
                    "ranges": [[{"subnet": context.subnet.network()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    }))?)
}

/// Runs containerd's own tool in the daemon's namespace, in the daemon's version.
pub(crate) fn ctr(state: &State, arguments: &[&str]) -> Result<String> {
    let keeper = state.keeper.as_ref().context("no mount namespace is recorded")?;
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
    // The client's version is printed before the server's.
    let version = printed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Version:"))
        .next_back()
        .context("the version is missing")?
        .trim();
    // containerd works without its CRI plugin if that fails to load.
    let plugins = ctr(state, &["plugins", "list"])?;
    let cri_is_loaded = plugins.lines().any(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        fields.get(1) == Some(&"cri") && fields.last() == Some(&"ok")
    });
    anyhow::ensure!(cri_is_loaded, "the CRI plugin is not loaded");
    let end = version.find(['+', '~']).unwrap_or(version.len());
    Ok(version[..end].trim_start_matches('v').to_owned())
}

/// Loads the image of empty sandboxes, because containerd has no password for pulling it.
pub(crate) fn load_pause(context: &InstanceContext<'_>, state: &State) -> Result<()> {
    let (repository, _) = PAUSE.split_once(':').unwrap_or((PAUSE, ""));
    let archive = registry::image_archive(context.site, repository);
    let archive = archive.to_string_lossy();
    ctr(state, &["--namespace", NAMESPACE, "images", "import", &archive])?;
    Ok(())
}

/// Kills containers in the control groups that their pods request, which are in the configuration
/// of each container.
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
        // Parents are removed as well, if they are empty.
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
    let directories = |dir: PathBuf| {
        fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
    };
    directories(tasks)
        .flat_map(directories)
        .filter_map(|bundle| {
            let config = fs::read(bundle.join("config.json")).ok()?;
            let config: Value = serde_json::from_slice(&config).ok()?;
            config["linux"]["cgroupsPath"].as_str().map(str::to_owned)
        })
        .filter(|path| path.trim_matches('/').contains('/'))
        .collect()
}
