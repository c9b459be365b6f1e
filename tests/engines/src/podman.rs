//! Podman's service for Docker's API, from the machine's own packages or from another release's.
//!
//! Podman 4 is given CNI plugins here, as the other engines are. Podman 5 has netavark alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use crate::cgroup::Group;
use crate::engine::Engine;
use crate::instance::{Place, Plan};
use crate::keeper::Root;
use crate::process::Process;
use crate::rootfs::{self, Content};
use crate::site::Site;
use crate::{netavark, packages};

/// The CNI library keeps its results here and cannot be told otherwise.
pub(crate) const HOST_FOLDERS: &[&str] = &["/var/lib/cni"];

/// Podman 5 waits for some seconds at each start to announce the end of version 1, unless this is
/// set.
const NO_CGROUPS_V1_WARNING: &str = "PODMAN_IGNORE_CGROUPSV1_WARNING";

/// The settings of the two ways to make networks.
const CNI: &str = "network_backend = \"cni\"\ncni_plugin_dirs = [\"/usr/lib/cni\"]\n";
const NETAVARK: &str = "network_backend = \"netavark\"\nfirewall_driver = \"nftables\"\n";

/// Podman puts its containers here whatever the service's own group is.
const PARENT: &str = "libpod_parent";

pub(crate) fn install(who: &str, suite: Option<&str>) -> Result<()> {
    match suite {
        None => packages::ensure(
            who,
            &["podman", "runc", "containernetworking-plugins", "iptables", "iproute2"],
        ),
        Some(suite) => {
            packages::ensure(who, &[netavark::PACKAGE, "iproute2"])?;
            rootfs::ensure(who, suite, Content::Podman).map(drop)
        }
    }
}

pub(crate) fn plan(place: &Place<'_>, suite: Option<&str>) -> Result<Plan> {
    let socket = place.dir.join("podman.sock");
    let networks = place.dir.join("networks");
    let config = place.dir.join("containers.conf");
    let registries = place.dir.join("registries.conf");
    let storage = place.dir.join("storage.conf");
    fs::create_dir_all(&networks)?;
    let (file, network, backend) = match suite {
        None => ("podman.conflist", cni_network(place)?, CNI),
        Some(_) => ("podman.json", netavark::network(&place.bridge, place.subnet)?, NETAVARK),
    };
    fs::write(networks.join(file), network)?;
    fs::write(&config, containers_conf(&networks, backend))?;
    // Podman speaks TLS to every registry that it is not told of, on loopback too. The port is
    // not known here: the registry may come up later.
    fs::write(
        &registries,
        "unqualified-search-registries = [\"docker.io\"]\n\n\
         [[registry]]\nlocation = \"127.0.0.1\"\ninsecure = true\n",
    )?;
    fs::write(
        &storage,
        format!(
            "[storage]\ndriver = \"overlay\"\nrunroot = \"/run/containers\"\ngraphroot = {:?}\n",
            place.dir.join("data")
        ),
    )?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(Plan {
        root: Some(match suite {
            None => Root::Host { empty: HOST_FOLDERS.iter().map(Into::into).collect() },
            Some(suite) => Root::System(rootfs::path(suite, Content::Podman)?),
        }),
        make_bridge: false,
        command: vec![
            "/usr/bin/podman".to_owned(),
            "--root".to_owned(),
            text(&place.dir.join("data")),
            "--runroot".to_owned(),
            "/run/containers".to_owned(),
            "--tmpdir".to_owned(),
            "/run/libpod".to_owned(),
            "--network-config-dir".to_owned(),
            text(&networks),
            "--volumepath".to_owned(),
            text(&place.dir.join("volumes")),
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

/// Podman's default network, with our bridge and addresses.
fn cni_network(place: &Place<'_>) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(&json!({
        "cniVersion": "0.4.0",
        "name": "podman",
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

fn containers_conf(networks: &Path, backend: &str) -> String {
    // crun refuses hybrid control groups. There is no systemd and no journal to rely on. The
    // built-in limits are above the hard limits of a process without CAP_SYS_RESOURCE, which
    // may not raise them: give containers the limits that the service has itself. It lowers
    // its own number of processes to the number of process ids that there are.
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

/// Its monitors and containers move themselves to groups that all Podmans share. The monitors
/// are known by our storage in their arguments, the containers by the monitors and the storage.
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

/// Monitors, and what they run when their container ends.
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
