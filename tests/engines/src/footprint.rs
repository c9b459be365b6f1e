//! Leftovers of engines on a host, found by comparison.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::process::run;
use crate::site::Site;
use crate::{cgroup, netavark};

/// Processes, mounts, links, packet filter rules and control groups of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// Records the current state of the host.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn now() -> Result<Self> {
        let mut all = BTreeSet::new();
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            // Mount numbers change; mount points and types do not.
            let place = line.split(' ').nth(4).unwrap_or_default();
            let kind = line.split_once(" - ").map_or("", |(_, kind)| kind);
            all.insert(format!("mount {place} {kind}"));
        }
        for link in fs::read_dir("/sys/class/net")?.flatten() {
            all.insert(format!("link {}", link.file_name().to_string_lossy()));
        }
        for table in ["filter", "nat"] {
            let rules = run("iptables", &["-w", "-t", table, "-S"]).unwrap_or_default();
            // A built-in chain with its policy is not a rule.
            for rule in rules.lines().filter(|rule| !rule.starts_with("-P")) {
                all.insert(format!("rule {table} {rule}"));
            }
        }
        for rule in netavark::rules().lines() {
            all.insert(format!("rule netavark {}", rule.trim()));
        }
        for hierarchy in cgroup::hierarchies()? {
            groups(&hierarchy.mount, &mut all);
        }
        let forward = "/proc/sys/net/ipv4/ip_forward";
        all.insert(format!("setting {forward} {}", fs::read_to_string(forward)?.trim()));
        for process in fs::read_dir("/proc")?.flatten() {
            let read = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace(['\0', '\n'], " ");
            // Kernel threads and zombies have no command line.
            let command = text(read("cmdline"));
            if !command.is_empty() {
                let pid = process.file_name();
                let groups = text(read("cgroup"));
                all.insert(format!("process {} {command} {groups}", pid.to_string_lossy()));
            }
        }
        Ok(Self(all))
    }

    /// Returns all entries that are new, of any origin.
    #[must_use]
    pub fn added_since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// Returns the rules of a packet filter table: `filter`, `nat`, `netavark`.
    #[must_use]
    pub fn rules_of(&self, table: &str) -> Vec<String> {
        let begin = format!("rule {table} ");
        self.0.iter().filter(|line| line.starts_with(&begin)).cloned().collect()
    }

    /// Returns all entries with the name of a site; empty when the site is down.
    #[must_use]
    pub fn of(&self, site: &Site) -> Vec<String> {
        let root = site.root().to_string_lossy().into_owned();
        self.0
            .iter()
            .filter(|line| line.contains(site.tag()) || line.contains(&root))
            .cloned()
            .collect()
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
