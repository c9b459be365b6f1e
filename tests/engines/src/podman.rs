//! Podman's service for Docker's API, from the packages of this Debian release or of another one.
//!
//! Podman 4 uses CNI plugins here, like the other engines. Podman 5 supports only netavark.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use crate::cgroup::Group;
use crate::engine::Engine;
use crate::instance::{InstanceContext, Plan};
use crate::keeper::Root;
use crate::process::Process;
use crate::rootfs::{self, Content};
use crate::site::Site;
use crate::{netavark, packages};

/// Directory in which the CNI library keeps its results; not configurable.
pub(crate) const HOST_DIRECTORIES: &[&str] = &["/var/lib/cni"];

/// Without this variable, every start of Podman 5 waits for seconds to announce the end of version
/// 1.
const NO_CGROUPS_V1_WARNING: &str = "PODMAN_IGNORE_CGROUPSV1_WARNING";

/// Settings of the two network backends.
const CNI: &str = "network_backend = \"cni\"\ncni_plugin_dirs = [\"/usr/lib/cni\"]\n";
const NETAVARK: &str = "network_backend = \"netavark\"\nfirewall_driver = \"nftables\"\n";

/// Group in which Podman puts its containers, whatever the service's group is.
const PARENT: &str = "libpod_parent";

pub(crate) fn install(label: &str, suite: Option<&str>) -> Result<()> {
    match suite {
        None => packages::ensure(
            label,
            &["podman", "runc", "containernetworking-plugins", "iptables", "iproute2"],
        ),
        Some(suite) => {
            packages::ensure(label, &[netavark::PACKAGE, "iproute2"])?;
            rootfs::ensure(label, suite, Content::Podman).map(drop)
        }
    }
}

pub(crate) fn plan(context: &InstanceContext<'_>, suite: Option<&str>) -> Result<Plan> {
    let socket = context.dir.join("podman.sock");
    let networks = context.dir.join("networks");
    let config = context.dir.join("containers.conf");
    let registries = context.dir.join("registries.conf");
    let storage = context.dir.join("storage.conf");
    fs::create_dir_all(&networks)?;
    let (file, network, backend) = match suite {
        None => ("podman.conflist", cni_network(context)?, CNI),
        Some(_) => ("podman.json", netavark::network(&context.bridge, context.subnet)?, NETAVARK),
    };
    fs::write(networks.join(file), network)?;
    fs::write(&config, containers_conf(&networks, backend))?;
    // Podman uses TLS for every registry that is not configured, also on loopback. The port is
    // unknown here, because the registry may start later.
    fs::write(
        &registries,
        "unqualified-search-registries = [\"docker.io\"]\n\n\
         [[registry]]\nlocation = \"127.0.0.1\"\ninsecure = true\n",
    )?;
    fs::write(
        &storage,
        format!(
            "[storage]\ndriver = \"overlay\"\nrunroot = \"/run/containers\"\ngraphroot = {:?}\n",
            context.dir.join("data")
        ),
    )?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(Plan {
        root: Some(match suite {
            None => Root::Host { empty: HOST_DIRECTORIES.iter().map(Into::into).collect() },
            Some(suite) => Root::System(rootfs::path(suite, Content::Podman)?),
        }),
        make_bridge: false,
        command: vec![
            "/usr/bin/podman".to_owned(),
            "--root".to_owned(),
            text(&context.dir.join("data")),
            "--runroot".to_owned(),
            "/run/containers".to_owned(),
            "--tmpdir".to_owned(),
            "/run/libpod".to_owned(),
            "--network-config-dir".to_owned(),
            text(&networks),
            "--volumepath".to_owned(),
            text(&context.dir.join("volumes")),
            "system".to_owned(),
            "service".to_owned(),
            "--time=0".to_owned(),
            format!("unix://{}", socket.display()),
        ],
        environment: [
            ("CONTAINERS_CONF", &config),
            ("CONTAINERS_REGISTRIES_CONF", &registries),
            ("CONTAINERS_STORAGE_CONF", &storage),
        ]
        .map(|(name, path)| (name.to_owned(), text(path)))
        .into_iter()
        .chain([(NO_CGROUPS_V1_WARNING.to_owned(), "1".to_owned())])
        .collect(),
        socket: Some(socket),
        values: BTreeMap::new(),
    })
}

/// Returns Podman's default network with the instance's bridge and addresses.
fn cni_network(context: &InstanceContext<'_>) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(&json!({
        "cniVersion": "0.4.0",
        "name": "podman",
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
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    }))?)
}

fn containers_conf(networks: &Path, backend: &str) -> String {
    // crun refuses hybrid control groups, and there is neither systemd nor a journal. The built-in
    // limits exceed the hard limits of a process without CAP_SYS_RESOURCE, which cannot raise them,
    // so containers get the limits of the service. The service lowers its own process limit to the
    // maximum PID.
    let ids = fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(32_768);
    let mut limits = String::new();
    for (name, resource, most) in
        [("nofile", Resource::Nofile, 1_048_576), ("nproc", Resource::Nproc, ids)]
    {
        let limit = getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        limits.push_str(&format!("  \"{name}={limit}:{limit}\",\n"));
    }
    format!(
        "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\n\
         [containers]\nlog_driver = \"k8s-file\"\ndefault_ulimits = [\n{limits}]\n\n\
         [network]\n{backend}network_config_dir = {networks:?}\n"
    )
}

/// Podman's monitors and containers are in groups that all Podman instances share. The monitors are
/// identified by the instance's storage in their arguments, the containers by monitors and storage.
pub(crate) fn kill_strays(site: &Site, engine: Engine) -> Result<()> {
    let limit = Duration::from_secs(20);
    let data = site.dir(engine.name()).join("data");
    let mut containers: BTreeSet<String> = fs::read_dir(data.join("overlay-containers"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    for (process, arguments) in helpers(&data)? {
        process.kill()?;
        let id = arguments.iter().skip_while(|word| *word != "-c").nth(1);
        containers.extend(id.cloned());
    }
    for id in containers {
        let group = Group::new(&format!("{PARENT}/libpod-{id}"))?;
        group.kill_all(None, limit)?;
        group.remove(limit)?;
    }
    for name in [format!("{PARENT}/conmon"), PARENT.to_owned()] {
        Group::new(&name)?.remove_if_empty();
    }
    Ok(())
}

/// Returns the monitors, and the processes that they start when their container exits.
fn helpers(data: &Path) -> Result<Vec<(Process, Vec<String>)>> {
    let data = data.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(process) =
            entry.file_name().to_str().and_then(|pid| Process::find(pid.parse().ok()?))
        else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<String> =
            String::from_utf8_lossy(&command).split('\0').map(str::to_owned).collect();
        let program = arguments[0].rsplit('/').next().unwrap_or_default();
        if ["conmon", "podman", "runc", "netavark"].contains(&program)
            && arguments.iter().any(|word| word.starts_with(&data))
        {
            found.push((process, arguments));
        }
    }
    Ok(found)
}
