//! Host settings shared by instances: prepared for the first, restored after the last.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Group};
use crate::engine::Engine;
use crate::site::Site;
use crate::{firewall, instance, net, netavark};

/// Host state before the first instance, and choices for all instances.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    /// The second octet of all instances' networks.
    pub(crate) octet: u8,
    /// Kernel settings that engines change, with their original values.
    settings: Vec<(PathBuf, String)>,
    /// Directories outside of the site that were created for an engine.
    #[serde(alias = "folders")]
    directories: Vec<PathBuf>,
    /// Packet filter chains that existed before.
    chains: Vec<String>,
    /// Set if netavark's table existed before.
    #[serde(default)]
    netavark: bool,
}

/// Read and written in the kernel's format.
const SETTINGS: [&str; 1] = ["/proc/sys/net/ipv4/ip_forward"];

fn file(site: &Site) -> PathBuf {
    site.dir("host.json")
}

/// Prepares the host, or reads the record of the first instance.
pub(crate) fn prepare(site: &Site, directories: &[&str]) -> Result<Host> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "the test engines need root to mount and to create bridges and control groups"
    );
    let _lock = site.lock("host")?;
    let mut host = match fs::read(file(site)) {
        Ok(text) => serde_json::from_slice(&text).context("failed to parse host.json")?,
        Err(_) => Host {
            octet: net::free_octet(site)?,
            settings: SETTINGS
                .iter()
                .filter_map(|path| Some((PathBuf::from(path), fs::read_to_string(path).ok()?)))
                .collect(),
            directories: Vec::new(),
            chains: firewall::chains(),
            netavark: netavark::exists(),
        },
    };
    for directory in directories.iter().map(Path::new) {
        if !directory.exists() {
            fs::create_dir_all(directory)?;
            host.directories.push(directory.to_owned());
        }
    }
    fs::write(file(site), serde_json::to_vec_pretty(&host)?)?;
    count_block_io(site)?;
    Ok(host)
}

/// Returns the record, if any instance is up.
pub(crate) fn read(site: &Site) -> Option<Host> {
    serde_json::from_slice(&fs::read(file(site)).ok()?).ok()
}

/// Restores the host, if no instance remains.
pub(crate) fn release(site: &Site) -> Result<()> {
    let _lock = site.lock("host")?;
    for engine in Engine::ALL {
        if site.dir(engine.name()).exists() || instance::group(site, engine)?.exists() {
            return Ok(());
        }
    }
    if let Ok(text) = fs::read(file(site)) {
        let host: Host = serde_json::from_slice(&text).context("failed to parse host.json")?;
        for (path, before) in &host.settings {
            if fs::read_to_string(path).is_ok_and(|now| now != *before) {
                fs::write(path, before)?;
            }
        }
        firewall::clean(&host.chains);
        if !host.netavark {
            netavark::remove_unused();
        }
        for directory in &host.directories {
            // The directory may contain files of others.
            let _ = fs::remove_dir(directory);
        }
        fs::remove_file(file(site))?;
    }
    Group::new(site.tag())?.remove(Duration::from_secs(10))
}

/// Enables the accounting of block I/O.
///
/// Since Linux 6.10, version 1 groups count block I/O only for disks with a limit in some group. A
/// limit that is never reached, in an empty group, enables the accounting for all groups. Version 2
/// always counts.
fn count_block_io(site: &Site) -> Result<()> {
    let Some(hierarchy) =
        cgroup::hierarchies()?.into_iter().find(|h| h.controllers.iter().any(|c| c == "blkio"))
    else {
        return Ok(());
    };
    let group = hierarchy.mount.join(site.tag()).join("count-block-io");
    fs::create_dir_all(&group)?;
    let limit = group.join("blkio.throttle.read_bps_device");
    for disk in fs::read_dir("/sys/block")?.flatten() {
        let name = disk.file_name();
        let name = name.to_string_lossy();
        // These are not disks, or not used in tests.
        if ["loop", "ram", "zram", "nbd", "fd", "sr"].iter().any(|prefix| name.starts_with(prefix))
        {
            continue;
        }
        let number = fs::read_to_string(disk.path().join("dev"))?;
        // A disk without its own queue refuses the limit and has nothing to count.
        let _ = fs::write(&limit, format!("{} {}", number.trim(), 1_u64 << 60));
    }
    Ok(())
}
