//! What instances share on the host: prepared by the first, put back by the last.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Group};
use crate::engine::Engine;
use crate::site::Site;
use crate::{firewall, instance, net, netavark};

/// What was found before the first instance came up, and what was chosen for all of them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    /// The second octet of the networks of all instances.
    pub(crate) octet: u8,
    /// Kernel settings that an engine changes, with their values from before.
    settings: Vec<(PathBuf, String)>,
    /// Folders outside the site that were made for an engine.
    folders: Vec<PathBuf>,
    /// Chains of the packet filter that were there before.
    chains: Vec<String>,
    /// Whether netavark's table was there before.
    #[serde(default)]
    netavark: bool,
}

/// Read and written as the kernel's own text.
const SETTINGS: [&str; 1] = ["/proc/sys/net/ipv4/ip_forward"];

fn file(site: &Site) -> PathBuf {
    site.dir("host.json")
}

/// Prepares the host, or reads what the first instance has prepared.
pub(crate) fn prepare(site: &Site, folders: &[&str]) -> Result<Host> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "the test engines need root: they mount, make bridges and control groups"
    );
    let _lock = site.lock("host")?;
    let mut host = match fs::read(file(site)) {
        Ok(text) => serde_json::from_slice(&text).context("host.json is damaged")?,
        Err(_) => Host {
            octet: net::free_octet(site)?,
            settings: SETTINGS
                .iter()
                .filter_map(|path| Some((PathBuf::from(path), fs::read_to_string(path).ok()?)))
                .collect(),
            folders: Vec::new(),
            chains: firewall::chains(),
            netavark: netavark::exists(),
        },
    };
    for folder in folders.iter().map(Path::new) {
        if !folder.exists() {
            fs::create_dir_all(folder)?;
            host.folders.push(folder.to_owned());
        }
    }
    fs::write(file(site), serde_json::to_vec_pretty(&host)?)?;
    count_block_io(site)?;
    Ok(host)
}

/// What was recorded, if any instance is up.
pub(crate) fn read(site: &Site) -> Option<Host> {
    serde_json::from_slice(&fs::read(file(site)).ok()?).ok()
}

/// Puts the host back as it was, if no instance is left that needs it.
pub(crate) fn release(site: &Site) -> Result<()> {
    let _lock = site.lock("host")?;
    for engine in Engine::ALL {
        if site.dir(engine.name()).exists() || instance::group(site, engine)?.exists() {
            return Ok(());
        }
    }
    if let Ok(text) = fs::read(file(site)) {
        let host: Host = serde_json::from_slice(&text).context("host.json is damaged")?;
        for (path, before) in &host.settings {
            if fs::read_to_string(path).is_ok_and(|now| now != *before) {
                fs::write(path, before)?;
            }
        }
        firewall::clean(&host.chains);
        if !host.netavark {
            netavark::remove_unused();
        }
        for folder in &host.folders {
            // Somebody else may have put something there since.
            let _ = fs::remove_dir(folder);
        }
        fs::remove_file(file(site))?;
    }
    Group::new(site.tag())?.remove(Duration::from_secs(10))
}

/// Switches the counting of block IO on.
///
/// Since 6.10 the kernel counts the block IO of a version 1 group only for disks that have a
/// limit in some group: a limit that nothing reaches, in an empty group of our own, is enough
/// for all groups. Version 2 always counts.
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
        // These are no disks, or have no use in a test.
        if ["loop", "ram", "zram", "nbd", "fd", "sr"].iter().any(|prefix| name.starts_with(prefix))
        {
            continue;
        }
        let number = fs::read_to_string(disk.path().join("dev"))?;
        // A disk without a queue of its own refuses, and then has nothing to count.
        let _ = fs::write(&limit, format!("{} {}", number.trim(), 1_u64 << 60));
    }
    Ok(())
}
