//! Lookup of the process of an exec.
//!
//! The CRI does not return the PID of an exec. The shim of containerd, the parent of the main
//! process, is also the parent of the process of each exec, and of no other process in the
//! container, because orphans become children of the main process. A new child of the shim is
//! therefore the process of this exec or of another. Execs of this library start one at a time,
//! under a lock. Execs of other programs are distinguished by their command lines. A single new
//! process with the command of the exec is accepted at once. A single one with another command (a
//! shell that has replaced itself) is accepted if no second one appears for a while. If several
//! match, none is accepted.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use runtime_core::{ContainerId, Signal};
use runtime_support::process::{self, Process, ProcessTree};

/// Time for which a process with another command must be the only new one.
const ONLY_PROCESS_DELAY: Duration = Duration::from_millis(150);

/// Returns whether the kernel lists the children of a process.
pub(crate) fn is_supported() -> bool {
    fs::exists("/proc/thread-self/children").unwrap_or(false)
}

/// Process of an exec.
#[derive(Debug)]
pub(crate) struct ExecProcess {
    process: Process,
    pid: i32,
}

impl ExecProcess {
    /// Sends a signal to the process. If the signal ends the process, its descendants are killed.
    /// Returns `false` if the process had ended before.
    ///
    /// # Errors
    /// `PermissionDenied` if this user may not signal the process.
    pub(crate) async fn signal(&self, signal: Signal) -> io::Result<bool> {
        match self.tree() {
            Ok(tree) => tree.signal(signal).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn tree(&self) -> io::Result<ProcessTree> {
        let again = Process::hold(self.pid)?;
        // If the process is still alive, the PID has not been reused since.
        if !self.process.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        ProcessTree::new(again, self.pid)
    }
}

impl AsFd for ExecProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

/// Lookup of a process that the engine creates after the lookup was created.
#[derive(Debug)]
pub(crate) struct ExecProcessLookup {
    parent: i32,
    /// PID namespace of the container.
    namespace: PathBuf,
    before: HashSet<i32>,
    /// The only new process, with another command than that of the exec, and when it was found.
    other: Option<(i32, Instant)>,
}

impl ExecProcessLookup {
    /// Records the current processes of a container with this main process.
    ///
    /// # Errors
    /// If the PID is not that of a process in the container, or `/proc` cannot be read.
    pub(crate) fn new(main: i32, container: &ContainerId) -> io::Result<Self> {
        if !process::is_in_container(main, container.as_str()) {
            return Err(io::Error::other(
                "the PID of the engine is not that of a process in the container",
            ));
        }
        let parent = parent(main)?;
        let namespace = namespace(main)?;
        if fs::read_link("/proc/self/ns/pid")? == namespace {
            return Err(io::Error::other("the container shares the PID namespace of this process"));
        }
        let before = children(parent)?.into_iter().collect();
        Ok(Self { parent, namespace, before, other: None })
    }

    /// Returns the process that was created since then, with this command.
    pub(crate) fn find(&mut self, command: &[String]) -> io::Result<Option<ExecProcess>> {
        let wanted: Vec<u8> = command.iter().flat_map(|word| word.bytes().chain([0])).collect();
        let new: Vec<_> = self
            .since()?
            .into_iter()
            .map(|pid| {
                let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                (pid, words == wanted)
            })
            .collect();
        let Some(pid) = self.choose(&new, Instant::now()) else { return Ok(None) };
        let process = match Process::hold(pid) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            process => process?,
        };
        // If the PID still exists, it was not reused between the list and the open of its pidfd.
        Ok(self.since()?.contains(&pid).then_some(ExecProcess { process, pid }))
    }

    /// Selects the process of the exec from the new processes. Each is paired with a flag that is
    /// true if the process has the command of the exec.
    fn choose(&mut self, new: &[(i32, bool)], now: Instant) -> Option<i32> {
        let mut fitting = new.iter().filter(|(_, fits)| *fits);
        match (fitting.next(), fitting.next(), new) {
            (Some((pid, _)), None, _) => return Some(*pid),
            (None, None, &[(pid, _)]) => match self.other {
                Some((other, since)) if other == pid => {
                    return (now.duration_since(since) >= ONLY_PROCESS_DELAY).then_some(pid);
                }
                _ => self.other = Some((pid, now)),
            },
            _ => self.other = None,
        }
        None
    }

    fn since(&self) -> io::Result<Vec<i32>> {
        let mut new = children(self.parent)?;
        // Other children of the shim are not in the container.
        new.retain(|pid| {
            !self.before.contains(pid) && namespace(*pid).is_ok_and(|seen| seen == self.namespace)
        });
        Ok(new)
    }
}

fn namespace(pid: i32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid"))
}

fn parent(pid: i32) -> io::Result<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the process, in parentheses, can contain any byte.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let parent = rest.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok());
    parent.filter(|pid| *pid > 1).ok_or_else(|| io::Error::other("the container has no shim"))
}

fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(thread?.path().join("children")) {
            Ok(list) => {
                all.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            }
            // The thread has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(3) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn child_is_listed_until_it_is_reaped() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (mine, pid) = (std::process::id() as i32, child.id() as i32);
        assert!(children(mine).unwrap().contains(&pid));
        assert_eq!(parent(pid).unwrap(), mine);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(mine).unwrap().contains(&pid));
    }

    #[test]
    fn choose_rejects_processes_of_other_execs() {
        let look = || ExecProcessLookup {
            parent: 1,
            namespace: PathBuf::new(),
            before: HashSet::new(),
            other: None,
        };
        let now = Instant::now();
        let later = now + ONLY_PROCESS_DELAY;
        // The command decides; if it is ambiguous, none is accepted.
        assert_eq!(look().choose(&[(7, true)], now), Some(7));
        assert_eq!(look().choose(&[(7, true), (8, false)], now), Some(7));
        assert_eq!(look().choose(&[(7, true), (8, true)], now), None);
        // The process of another program appears first.
        let mut inside = look();
        assert_eq!(inside.choose(&[(7, false)], now), None);
        assert_eq!(inside.choose(&[(7, false), (8, true)], later), Some(8));
        let mut inside = look();
        assert_eq!(inside.choose(&[(7, false)], now), None);
        assert_eq!(inside.choose(&[(7, false), (8, false)], later), None);
        assert_eq!(inside.choose(&[(8, false)], later), None);
        // A shell has replaced itself.
        let mut inside = look();
        assert_eq!(inside.choose(&[(7, false)], now), None);
        assert_eq!(inside.choose(&[(7, false)], later), Some(7));
    }

    #[test]
    fn lookup_of_process_outside_of_the_container_fails() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let container = ContainerId::new("0123456789abcdef".repeat(4));
        assert!(ExecProcessLookup::new(child.id() as i32, &container).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
