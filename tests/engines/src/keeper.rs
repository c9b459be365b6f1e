//! Mount namespace of an instance, kept open by a sleeping process.
//!
//! Mounts of an engine disappear with the namespace and are not visible on the host, and `/run` is
//! private, so an engine finds neither sockets nor locks of another one. The keeper survives the
//! daemon, so a restarted daemon finds the mounts of its running containers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cgroup::Group;
use crate::process::{self, Process};
use crate::{poll, site::Site};

/// Root file system of the namespace.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    /// The host's system, with these directories replaced by empty ones.
    Host {
        /// Existing directories whose changes must not survive the instance.
        empty: Vec<PathBuf>,
    },
    /// Another system, unpacked in this directory, which is not changed.
    System(PathBuf),
}

/// Script: `$0` is a file that signals completion; the arguments are directories to replace.
const HOST_SCRIPT: &str = r#"
mount -t tmpfs -o mode=755 tmpfs /run
for dir in "$@"; do mount -t tmpfs -o mode=755 tmpfs "$dir"; done
: > "$0"
exec sleep infinity
"#;

/// Script: `$0` as above, `$1` the unpacked system, `$2` a directory for the new root, `$3` the
/// directory of the site, which stays visible at its path.
///
/// An overlay in memory lets several instances share the unpacked system without changes. A chroot
/// is not sufficient, because runc needs a real mount at `/`.
const SYSTEM_SCRIPT: &str = r#"
mount -t tmpfs -o mode=755 tmpfs "$2"
cd "$2"
mkdir upper work root
mount -t overlay -o lowerdir="$1",upperdir="$2/upper",workdir="$2/work" overlay root
cd root
for dir in proc sys dev; do mount --rbind "/$dir" "$dir"; done
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p ".$3"
mount --bind "$3" ".$3"
pivot_root . .
umount -l .
cd /
: > "$0"
exec sleep infinity
"#;

/// Starts the keeper and waits until its namespace is complete.
pub(crate) fn start(site: &Site, dir: &Path, group: &Group, root: &Root) -> Result<Process> {
    let ready = dir.join("keeper.ready");
    let log = dir.join("keeper.log");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut command: Vec<String> =
        ["unshare", "--mount", "--propagation", "slave", "sh", "-ec"].map(str::to_owned).to_vec();
    match root {
        Root::Host { empty } => {
            command.extend([HOST_SCRIPT.to_owned(), text(&ready)]);
            command.extend(empty.iter().map(|path| text(path)));
        }
        Root::System(system) => {
            let build = dir.join("root");
            std::fs::create_dir_all(&build)?;
            command.extend([SYSTEM_SCRIPT.to_owned(), text(&ready)]);
            command.extend([text(system), text(&build), text(site.root())]);
        }
    }
    let keeper = process::spawn(group, &log, &[], &command)?;
    poll::until(Duration::from_secs(20), "the mount namespace", || {
        if ready.exists() {
            return Ok(Some(()));
        }
        anyhow::ensure!(keeper.is_alive(), "failed to set up the mount namespace: {}", tail(&log));
        Ok(None)
    })?;
    Ok(keeper)
}

/// Returns the start of a command line that runs a command in the keeper's namespace.
pub(crate) fn enter(keeper: &Process) -> Result<Vec<String>> {
    anyhow::ensure!(keeper.is_alive(), "the mount namespace is gone: stop and start the engine");
    Ok(["nsenter", "--target", &keeper.pid.to_string(), "--mount", "--"]
        .map(str::to_owned)
        .to_vec())
}

/// Returns the last lines of a log file for an error message.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 15;
    let text = std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .with_context(|| format!("no log at {}", log.display()));
    match text {
        Ok(text) => {
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(LINES)..].join("\n")
        }
        Err(error) => error.to_string(),
    }
}
