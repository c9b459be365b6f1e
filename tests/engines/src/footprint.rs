//! What engines leave on a host: measured before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::cgroup;
use crate::process::run;

/// Processes of engines, mounts, links, packet filter rules and control groups of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// Looks at the host as it is now.
    ///
    /// # Errors
    /// If the host cannot be looked at.
    pub fn now() -> Result<Self> {
        let mut all = BTreeSet::new();
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            // The numbers of mounts change, their places and kinds do not.
            let place = line.split(' ').nth(4).unwrap_or_default();
            let kind = line.split_once(" - ").map_or("", |(_, kind)| kind);
            all.insert(format!("mount {place} {kind}"));
        }
        for link in fs::read_dir("/sys/class/net")?.flatten() {
            all.insert(format!("link {}", link.file_name().to_string_lossy()));
        }
        for table in ["filter", "nat"] {
            let rules = run("iptables", &["-w", "-t", table, "-S"]).unwrap_or_default();
            // A chain of the kernel's own with its policy is no rule.
            for rule in rules.lines().filter(|rule| !rule.starts_with("-P")) {
                all.insert(format!("rule {table} {rule}"));
            }
        }
        for hierarchy in cgroup::hierarchies()? {
            groups(&hierarchy.mount, &mut all);
        }
        let forward = "/proc/sys/net/ipv4/ip_forward";
        all.insert(format!("setting {forward} {}", fs::read_to_string(forward)?.trim()));
        for process in fs::read_dir("/proc")?.flatten() {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let name = name.trim();
            if ["dockerd", "containerd", "docker-", "podman", "conmon", "runc"]
                .iter()
                .any(|known| name.starts_with(known))
            {
                let pid = process.file_name();
                all.insert(format!("process {} {name}", pid.to_string_lossy()));
            }
        }
        Ok(Self(all))
    }

    /// What is there now and was not there before, and does not belong to `others`: names that
    /// tell what somebody else does on the host at the same time.
    #[must_use]
    pub fn added_since(&self, before: &Self, mine: impl Fn(&str) -> bool) -> Vec<String> {
        self.0.difference(&before.0).filter(|line| mine(line)).cloned().collect()
    }
}

fn groups(dir: &Path, all: &mut BTreeSet<String>) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.insert(format!("group {}", child.path().display()));
            groups(&child.path(), all);
        }
    }
}
