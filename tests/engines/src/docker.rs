//! Docker Engine, from the packages of this Debian release or of another one.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::instance::{InstanceContext, Plan, State};
use crate::keeper::Root;
use crate::process::Process;
use crate::rootfs::Content;
use crate::{http, packages, rootfs};

/// In the mount namespace's own /run.
const EXEC_ROOT: &str = "/run/docker";
const PID_FILE: &str = "/run/docker.pid";

pub(crate) fn install(label: &str, suite: Option<&str>) -> Result<()> {
    packages::ensure(label, &["iproute2"])?;
    match suite {
        None => packages::ensure(label, &["docker.io"]),
        Some(suite) => rootfs::ensure(label, suite, Content::Docker).map(drop),
    }
}

pub(crate) fn plan(context: &InstanceContext<'_>, suite: Option<&str>) -> Result<Plan> {
    let socket = context.dir.join("docker.sock");
    let config = context.dir.join("daemon.json");
    let settings = json!({
        "data-root": context.dir.join("data"),
        // Short paths for sockets, which are removed with the namespace.
        "exec-root": EXEC_ROOT,
        "pidfile": PID_FILE,
        "hosts": [format!("unix://{}", socket.display())],
        // Containers survive the daemon, because the fault tests kill it.
        "live-restore": true,
        "bridge": context.bridge,
        "cgroup-parent": context.group,
        // The start of a daemon flushes the chains of all others. Without packet filter rules, the
        // daemon publishes ports with proxies, and the host's packet filter is not changed. The
        // setting for forwarding is restored when the last engine stops.
        "iptables": false,
        "ip6tables": false,
        "ip-forward": true,
        "ip-masq": false,
    });
    fs::write(&config, serde_json::to_vec_pretty(&settings)?)?;
    Ok(Plan {
        root: Some(match suite {
            None => Root::Host { empty: Vec::new() },
            Some(suite) => Root::System(rootfs::path(suite, Content::Docker)?),
        }),
        make_bridge: true,
        command: vec![
            "/usr/sbin/dockerd".to_owned(),
            "--config-file".to_owned(),
            config.to_string_lossy().into_owned(),
        ],
        environment: Vec::new(),
        socket: Some(socket),
        values: BTreeMap::new(),
    })
}

/// Returns the plan with a PID namespace of its own, which ends with the engine.
pub(crate) fn with_own_pids(mut plan: Plan) -> Plan {
    let unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    plan.command.splice(0..0, unshare.map(str::to_owned));
    plan
}

/// Removes the PID files of a dead daemon and of the containerd that exited with it.
///
/// Both remain as zombies for some time, which the next daemon considers running: it refuses to
/// start because of the daemon's PID, and waits for the socket of the other.
pub(crate) fn forget_pids(keeper: &Process) -> Result<()> {
    let root = PathBuf::from(format!("/proc/{}/root", keeper.pid));
    for file in [PID_FILE.to_owned(), format!("{EXEC_ROOT}/containerd/containerd.pid")] {
        let file = root.join(file.trim_start_matches('/'));
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        if let Some(process) = text.trim().parse().ok().and_then(Process::find) {
            process.wait_gone(Duration::from_secs(10))?;
        }
        fs::remove_file(&file)?;
    }
    Ok(())
}

/// Also used for Podman, which has the same API.
pub(crate) fn probe(state: &State) -> Result<String> {
    let socket = state.socket.as_deref().context("no socket is recorded")?;
    let (status, _) = http::get(socket, "/_ping")?;
    anyhow::ensure!(status == 200, "the ping returned status {status}");
    let (_, body) = http::get(socket, "/version")?;
    let version: Value = serde_json::from_str(&body)?;
    let version = version["Version"].as_str().context("the version is missing")?;
    // Debian appends the state of its sources, `20.10.24+dfsg1`.
    Ok(version.split('+').next().unwrap_or(version).to_owned())
}
