//! Processes that the engine has put into a container beside its main process.
//!
//! The CRI does not name the process of an exec. containerd's helper, the parent of the main
//! process, is the parent of each exec's as well, and of nothing else in the container: a process
//! that is left behind in the container becomes a child of the first process of the container. A
//! child of the helper that is new since just before an exec is therefore the process of that exec
//! or of another one. The execs of this library start one after another (they hold a lock). Those of
//! other programs are told apart by their command lines: a single new process with the command of
//! the exec is taken at once, one with another command (a shell replaces itself) only after no
//! second one has appeared for a while, and of several that fit none is taken.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use runtime_core::{ContainerId, Signal};
use runtime_support::process::{self, Process, ProcessTree};

/// How long a process with another command than that of the exec has to be the only new one.
const ALONE: Duration = Duration::from_millis(150);

/// Whether the kernel tells the children of a process.
pub(crate) fn can_look() -> bool {
    fs::exists("/proc/thread-self/children").unwrap_or(false)
}

/// The process of an exec.
#[derive(Debug)]
pub(crate) struct ExecProcess {
    process: Process,
    pid: i32,
}

impl ExecProcess {
    /// Sends a signal to the process. If the process ends of it, all that it has started is killed.
    /// Returns `false` if the process has ended before.
    ///
    /// # Errors
    /// `PermissionDenied` if this user may not.
    pub(crate) async fn signal(&self, signal: Signal) -> io::Result<bool> {
        match self.tree() {
            Ok(tree) => tree.signal(signal).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn tree(&self) -> io::Result<ProcessTree> {
        let again = Process::hold(self.pid)?;
        // The number was that of the process, and so of what was held again, if it still lives.
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

/// The processes of a container that the engine has made, before one more of them.
#[derive(Debug)]
pub(crate) struct ExecProcessLookup {
    parent: i32,
    /// The pid namespace of the container.
    namespace: PathBuf,
    before: HashSet<i32>,
    /// The only new process, with a command other than that of the exec, and when it was first seen.
    other: Option<(i32, Instant)>,
}

impl ExecProcessLookup {
    /// Records the processes that are there now, by the PID of the main process.
    ///
    /// # Errors
    /// When the PID is not that of a process in the container, or `/proc` cannot be read.
    pub(crate) fn new(main: i32, container: &ContainerId) -> io::Result<Self> {
        if !process::is_in_container(main, container.as_str()) {
            return Err(io::Error::other(
                "the process that the engine names is not in the container",
            ));
        }
        let parent = parent(main)?;
        let namespace = namespace(main)?;
        if fs::read_link("/proc/self/ns/pid")? == namespace {
            return Err(io::Error::other("the container is in our own pid namespace"));
        }
        let before = children(parent)?.into_iter().collect();
        Ok(Self { parent, namespace, before, other: None })
    }

    /// Returns the process that was created since, with this command.
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
        // It is there still: then it is the one that we have hold of, and was not replaced by
        // another between the look and the hold.
        Ok(self.since()?.contains(&pid).then_some(ExecProcess { process, pid }))
    }

    /// Returns the process of the exec out of the new ones, each with whether it has the command of
    /// the exec.
    fn choose(&mut self, new: &[(i32, bool)], now: Instant) -> Option<i32> {
        let mut fitting = new.iter().filter(|(_, fits)| *fits);
        match (fitting.next(), fitting.next(), new) {
            (Some((pid, _)), None, _) => return Some(*pid),
            (None, None, &[(pid, _)]) => match self.other {
                Some((other, since)) if other == pid => {
                    return (now.duration_since(since) >= ALONE).then_some(pid);
                }
                _ => self.other = Some((pid, now)),
            },
            _ => self.other = None,
        }
        None
    }

    fn since(&self) -> io::Result<Vec<i32>> {
        let mut new = children(self.parent)?;
        // The helper's other children are not inside: they work for it.
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
    // The name before it can have anything in it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let parent = rest.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok());
    parent.filter(|pid| *pid > 1).ok_or_else(|| io::Error::other("the container has no helper"))
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
    fn children_and_parents_know_each_other() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (mine, pid) = (std::process::id() as i32, child.id() as i32);
        assert!(children(mine).unwrap().contains(&pid));
        assert_eq!(parent(pid).unwrap(), mine);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children(mine).unwrap().contains(&pid));
    }

    #[test]
    fn process_of_another_exec_is_not_taken() {
        let look = || ExecProcessLookup {
            parent: 1,
            namespace: PathBuf::new(),
            before: HashSet::new(),
            other: None,
        };
        let now = Instant::now();
        let later = now + ALONE;
        // The command decides, and where it does not, none is taken.
        assert_eq!(look().choose(&[(7, true)], now), Some(7));
        assert_eq!(look().choose(&[(7, true), (8, false)], now), Some(7));
        assert_eq!(look().choose(&[(7, true), (8, true)], now), None);
        // Another program's process appears first, and ours has not begun.
        let mut inside = look();
        assert_eq!(inside.choose(&[(7, false)], now), None);
        assert_eq!(inside.choose(&[(7, false), (8, true)], later), Some(8));
        let mut inside = look();
        assert_eq!(inside.choose(&[(7, false)], now), None);
        assert_eq!(inside.choose(&[(7, false), (8, false)], later), None);
        assert_eq!(inside.choose(&[(8, false)], later), None);
        // A shell that has replaced itself.
        let mut inside = look();
        assert_eq!(inside.choose(&[(7, false)], now), None);
        assert_eq!(inside.choose(&[(7, false)], later), Some(7));
    }

    #[test]
    fn process_outside_of_the_container_is_not_looked_into() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let container = ContainerId::new("0123456789abcdef".repeat(4));
        assert!(ExecProcessLookup::new(child.id() as i32, &container).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
