//! Control groups of the instances. They identify the processes of an instance, even after the
//! process that started them has exited.
//!
//! Containers are below the group of their engine; daemons and shims are in its `daemon` child. On
//! version 1 the path is the same in every hierarchy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::poll;
use crate::process::Process;

/// A mounted hierarchy of control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// The mount point.
    pub(crate) mount: PathBuf,
    /// The controllers of a version 1 hierarchy; empty for version 2.
    pub(crate) controllers: Vec<String>,
}

/// Returns all hierarchies, version 1 and 2.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    Ok(parse_mounts(&fs::read_to_string("/proc/self/mountinfo")?))
}

fn parse_mounts(mountinfo: &str) -> Vec<Hierarchy> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            let kind = right.next()?;
            let options = right.nth(1)?;
            // A second bind mount of a hierarchy has a root other than `/`.
            let mut left = left.split(' ').skip(3);
            let (root, mount) = (left.next()?, left.next()?);
            if root != "/" || !matches!(kind, "cgroup" | "cgroup2") {
                return None;
            }
            Some(Hierarchy {
                mount: PathBuf::from(mount),
                controllers: match kind {
                    "cgroup" => options.split(',').map(str::to_owned).collect(),
                    _ => Vec::new(),
                },
            })
        })
        .collect()
}

/// A group at the same path in every hierarchy; it may be missing.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    path: String,
    hierarchies: Vec<Hierarchy>,
}

impl Group {
    /// Creates a reference to a group; `path` has no leading slash.
    pub(crate) fn new(path: &str) -> Result<Self> {
        Ok(Self { path: path.to_owned(), hierarchies: hierarchies()? })
    }

    /// Returns the hierarchy with the processes: `pids` is cheap and always present on version 1.
    fn process_hierarchy(&self) -> Result<&Hierarchy> {
        let has_pids = |h: &&Hierarchy| h.controllers.iter().any(|name| name == "pids");
        self.hierarchies
            .iter()
            .find(has_pids)
            .or_else(|| self.hierarchies.iter().find(|h| h.controllers.is_empty()))
            .context("no control groups are mounted")
    }

    /// Creates the group in the hierarchy with the processes.
    pub(crate) fn create(&self) -> Result<()> {
        let dir = self.process_hierarchy()?.mount.join(&self.path);
        fs::create_dir_all(&dir)
            .with_context(|| format!("failed to create the control group {}", dir.display()))
    }

    /// Returns the file that moves a process into the group.
    pub(crate) fn procs_file(&self) -> PathBuf {
        // `create` fails without a hierarchy.
        self.process_hierarchy()
            .map(|process_hierarchy| process_hierarchy.mount.join(&self.path).join("cgroup.procs"))
            .unwrap_or_default()
    }

    /// Returns the existing directories of this group.
    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|h| h.mount.join(&self.path)).filter(|dir| dir.is_dir())
    }

    /// Returns true if any hierarchy has the group.
    pub(crate) fn exists(&self) -> bool {
        self.directories().next().is_some()
    }

    /// Returns all processes in and below the group, except those below the child `spare`.
    pub(crate) fn processes(&self, spare: Option<&str>) -> Vec<Process> {
        let mut found = Vec::new();
        for dir in self.directories() {
            let spare = spare.map(|name| dir.join(name));
            collect(&dir, spare.as_deref(), &mut found);
        }
        found.sort_by_key(|process| process.pid);
        found.dedup();
        found
    }

    /// Kills everything in the group, repeatedly until it is empty, because a killed process may
    /// have started another one.
    pub(crate) fn kill_all(&self, spare: Option<&str>, limit: Duration) -> Result<()> {
        poll::until(limit, &format!("the end of group {}", self.path), || {
            let left = self.processes(spare);
            for process in &left {
                process.signal_kill()?;
            }
            Ok(left.is_empty().then_some(()))
        })
    }

    /// Removes the group and its children, which must be empty.
    pub(crate) fn remove(&self, limit: Duration) -> Result<()> {
        // The kernel releases a group some time after its last process.
        poll::until(limit, &format!("removing group {}", self.path), || {
            self.directories().for_each(|dir| prune(&dir));
            Ok((!self.exists()).then_some(()))
        })
    }

    /// Removes the group if it is empty.
    pub(crate) fn remove_if_empty(&self) {
        for dir in self.directories() {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
}

fn collect(dir: &Path, spare: Option<&Path>, found: &mut Vec<Process>) {
    if Some(dir) == spare {
        return;
    }
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(procs.lines().filter_map(|line| Process::find(line.parse().ok()?)));
    children(dir).for_each(|child| collect(&child, spare, found));
}

fn prune(dir: &Path) {
    children(dir).for_each(|child| prune(&child));
    let _ = fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_parsed() {
        let text = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
50 31 0:36 /a /elsewhere rw - cgroup cgroup rw,pids
";
        let found = parse_mounts(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].controllers, ["rw", "pids"]);
        assert_eq!(found[1].mount, Path::new("/sys/fs/cgroup/unified"));
        assert!(found[1].controllers.is_empty());
    }
}
