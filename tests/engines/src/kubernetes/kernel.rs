//! Machine settings that a kubelet overwrites, and packet filter rules that allow forwarding for
//! the pods' bridge.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::process::run;

/// Settings that a kubelet writes on every start.
const SETTINGS: [&str; 6] = [
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/kernel/keys/root_maxkeys",
    "/proc/sys/kernel/keys/root_maxbytes",
];

/// Writes the current settings to a file.
pub(crate) fn save(file: &Path) -> Result<()> {
    let settings: BTreeMap<_, _> = SETTINGS
        .iter()
        .filter_map(|path| Some((PathBuf::from(path), fs::read_to_string(path).ok()?)))
        .collect();
    fs::write(file, serde_json::to_vec_pretty(&settings)?)?;
    Ok(())
}

/// Restores recorded settings, if there are any. No kubelet may be running.
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

/// Returns the two rules that accept packets from and to the bridge.
///
/// A Docker Engine of the machine's owner denies forwarding by default. The CNI plugin for that
/// creates chains that are never removed, and calls iptables four times per pod.
fn forwarding(bridge: &str) -> [[&str; 6]; 2] {
    [
        ["FORWARD", "-i", bridge, "-j", "ACCEPT", "-w"],
        ["FORWARD", "-o", bridge, "-j", "ACCEPT", "-w"],
    ]
}

/// Accepts packets from and to the bridge.
pub(crate) fn allow_forwarding(bridge: &str) -> Result<()> {
    forbid_forwarding(bridge);
    for rule in forwarding(bridge) {
        run("iptables", &[&["-I"], &rule[..]].concat())?;
    }
    Ok(())
}

/// Removes the rules, if they exist.
pub(crate) fn forbid_forwarding(bridge: &str) {
    for rule in forwarding(bridge) {
        // The command fails when no such rule is left.
        while run("iptables", &[&["-D"], &rule[..]].concat()).is_ok() {}
    }
}
