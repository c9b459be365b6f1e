//! Settings of the whole machine that a kubelet overwrites, and the packet filter's permission
//! to forward for the pods' bridge.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::process::run;

/// What it writes at its start, whether asked to or not.
const SETTINGS: [&str; 6] = [
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/kernel/keys/root_maxkeys",
    "/proc/sys/kernel/keys/root_maxbytes",
];

/// Records the settings in this file.
pub(crate) fn save(file: &Path) -> Result<()> {
    let settings: BTreeMap<_, _> = SETTINGS
        .iter()
        .filter_map(|path| Some((PathBuf::from(path), fs::read_to_string(path).ok()?)))
        .collect();
    fs::write(file, serde_json::to_vec_pretty(&settings)?)?;
    Ok(())
}

/// Writes back what was recorded, if anything was. No kubelet may run.
pub(crate) fn restore(file: &Path) -> Result<()> {
    let Ok(text) = fs::read(file) else {
        return Ok(());
    };
    let settings: BTreeMap<PathBuf, String> = serde_json::from_slice(&text)?;
    for (path, before) in settings {
        if fs::read_to_string(&path).is_ok_and(|now| now != before) {
            fs::write(path, before)?;
        }
    }
    fs::remove_file(file)?;
    Ok(())
}

/// The two rules that let packets from and to the bridge pass.
///
/// A Docker Engine of the machine's owner forbids forwarding by default. The CNI plugin for
/// that makes chains that nobody removes, and four calls of iptables for each pod.
fn forwarding(bridge: &str) -> [[&str; 6]; 2] {
    [
        ["FORWARD", "-i", bridge, "-j", "ACCEPT", "-w"],
        ["FORWARD", "-o", bridge, "-j", "ACCEPT", "-w"],
    ]
}

/// Lets packets from and to the bridge pass.
pub(crate) fn allow_forwarding(bridge: &str) -> Result<()> {
    forbid_forwarding(bridge);
    for rule in forwarding(bridge) {
        run("iptables", &[&["-I"], &rule[..]].concat())?;
    }
    Ok(())
}

/// Removes the rules again, if they are there.
pub(crate) fn forbid_forwarding(bridge: &str) {
    for rule in forwarding(bridge) {
        // It says no when there is no such rule.
        while run("iptables", &[&["-D"], &rule[..]].concat()).is_ok() {}
    }
}
