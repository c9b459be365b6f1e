//! A process and its descendants.
//!
//! Engines end the process of an exec and leave its descendants running in the container.
//! Descendants are found by session and by parent: engines make the process of an exec a session
//! leader, and a process that leaves the session is found as long as its parent lives. All members
//! are stopped before the first is killed, so that none forks unnoticed and no parent link is lost.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use runtime_core::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::Process;

/// Maximum number of scans of the process table. Each scan stops all members that it finds.
const SCANS_MAX: usize = 100;

/// Time within which a signal may end the process before `signal` returns.
const PROMPT_END_MAX: Duration = Duration::from_millis(50);

/// Time within which the end of the process is attributed to the signal.
const DELAYED_END_MAX: Duration = Duration::from_secs(10);

const SIGSTOP: i32 = 19;

/// A process whose descendants are ended with it.
#[derive(Debug)]
pub struct ProcessTree {
    root: Process,
    pid: i32,
    started: u64,
    /// `true` if the process is a session leader.
    is_leader: bool,
    /// PID namespace of the process.
    namespace: Option<PathBuf>,
}

/// Descendants of a process, by PID.
type Members = HashMap<i32, Process>;

impl ProcessTree {
    /// Creates the tree of a process. `pid` has to be the PID of `root` at the time of the call.
    ///
    /// # Errors
    /// `NotFound` if the process has ended.
    pub fn new(root: Process, pid: i32) -> io::Result<Self> {
        let stat = Stat::read(pid).ok_or(io::ErrorKind::NotFound)?;
        let namespace = namespace(pid);
        if !root.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { root, pid, started: stat.started, is_leader: stat.session == pid, namespace })
    }

    /// Opens a process of a container, see [`Process::in_container`].
    ///
    /// # Errors
    /// The errors of [`Process::in_container`].
    pub fn in_container(pid: i32, container: &str) -> io::Result<Self> {
        Self::new(Process::in_container(pid, container)?, pid)
    }

    /// Returns the root process.
    #[must_use]
    pub const fn root(&self) -> &Process {
        &self.root
    }

    /// Sends a signal to the root process. If the signal ends the process, its descendants are
    /// killed. Returns `false` if the process had already ended.
    ///
    /// [`Signal::KILL`] kills the whole tree. After another signal the process may take up to ten
    /// seconds to end; a spawned task then kills its descendants.
    ///
    /// # Errors
    /// `PermissionDenied` if this user may not signal the process.
    ///
    /// # Panics
    /// Panics outside a tokio runtime.
    pub async fn signal(self, signal: Signal) -> io::Result<bool> {
        if signal == Signal::KILL {
            return run_blocking(move || self.kill()).await;
        }
        let (tree, members, sent) = run_blocking(move || {
            let mut members = Members::new();
            self.add_descendants(&mut members, None)?;
            let sent = self.root.signal(signal)?;
            Ok((self, members, sent))
        })
        .await?;
        if !sent {
            return Ok(false);
        }
        let ended = tree.root.as_fd().try_clone_to_owned()?;
        // SAFETY: the result owns the descriptor, which is therefore open for its lifetime.
        let ended = unsafe { AsyncFd::register_with_interest(ended, Interest::READABLE) }?;
        if timeout(PROMPT_END_MAX, ended.readable()).await.is_ok() {
            run_blocking(move || tree.kill_with(members)).await?;
            return Ok(true);
        }
        tokio::spawn(async move {
            if let Ok(Ok(_)) = timeout(DELAYED_END_MAX, ended.readable()).await
                && let Err(error) = run_blocking(move || tree.kill_with(members)).await
            {
                tracing::debug!(%error, "failed to kill the descendants of a signalled process");
            }
        });
        Ok(true)
    }

    /// Kills the process and its descendants. Returns `false` if the process had already ended.
    ///
    /// # Errors
    /// `PermissionDenied` if this user may not signal the process.
    pub fn kill(&self) -> io::Result<bool> {
        self.kill_with(Members::new())
    }

    fn kill_with(&self, mut members: Members) -> io::Result<bool> {
        for member in members.values() {
            member.send(SIGSTOP)?;
        }
        self.root.send(SIGSTOP)?;
        self.add_descendants(&mut members, Some(SIGSTOP))?;
        // Descendants first, because the end of the root process may end the container's session.
        for member in members.values() {
            member.signal(Signal::KILL)?;
        }
        self.root.signal(Signal::KILL)
    }

    /// Adds the descendants that are not yet members, and sends each the signal.
    fn add_descendants(&self, members: &mut Members, signal: Option<i32>) -> io::Result<()> {
        for _ in 0..SCANS_MAX {
            let before = members.len();
            for (pid, stat) in Stat::read_all()? {
                if pid == self.pid || members.contains_key(&pid) || !self.owns(members, pid, &stat)
                {
                    continue;
                }
                let Ok(process) = Process::hold(pid) else { continue };
                // Checks that the PID was not reused before the pidfd was opened.
                let same = Stat::read(pid).is_some_and(|again| {
                    again.started == stat.started && self.owns(members, pid, &again)
                });
                if !same || !process.is_alive() {
                    continue;
                }
                if let Some(signal) = signal {
                    process.send(signal)?;
                }
                members.insert(pid, process);
            }
            if members.len() == before {
                break;
            }
        }
        Ok(())
    }

    fn owns(&self, members: &Members, pid: i32, stat: &Stat) -> bool {
        if stat.is_zombie || stat.started < self.started {
            return false;
        }
        // The PID of a live process is not reused.
        let is_child = match members.get(&stat.parent) {
            Some(parent) => parent.is_alive(),
            None => stat.parent == self.pid && self.root.is_alive(),
        };
        // A session id is not reused while the session has members.
        let in_session = self.is_leader
            && stat.session == self.pid
            && self.namespace.is_some()
            && namespace(pid) == self.namespace
            && Stat::read(self.pid).is_none_or(|leader| leader.started == self.started);
        is_child || in_session
    }
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// The fields of `/proc/PID/stat` that identify a process and its parents.
#[derive(Debug)]
struct Stat {
    is_zombie: bool,
    parent: i32,
    session: i32,
    /// Start time in clock ticks.
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The process name may contain any character, including parentheses.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_ascii_whitespace().collect();
        Some(Self {
            is_zombie: matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// Returns all visible processes.
    fn read_all() -> io::Result<Vec<(i32, Self)>> {
        let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, Self::read(pid)?))
        });
        Ok(pids.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Starts a shell that leads a session and prints the PIDs of its children.
    fn start(script: &str) -> (Child, Vec<i32>) {
        let mut child = Command::new("setsid")
            .args(["sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect())
    }

    fn runs(pid: i32) -> bool {
        Stat::read(pid).is_some_and(|stat| !stat.is_zombie)
    }

    async fn until_ended(pids: &[i32]) {
        let ended = async {
            while pids.iter().any(|pid| runs(*pid)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), ended).await.unwrap();
    }

    fn tree(child: &Child) -> ProcessTree {
        let pid = i32::try_from(child.id()).unwrap();
        ProcessTree::new(Process::hold(pid).unwrap(), pid).unwrap()
    }

    const TWO_AND_A_SESSION: &str = "sleep 301 & a=$!; sleep 302 & b=$!; \
         setsid sh -c 'sleep 303 & echo $!; sleep 304' > /tmp/.$$ & c=$!; \
         while ! [ -s /tmp/.$$ ]; do sleep 0.01; done; \
         echo $a $b $c $(cat /tmp/.$$); rm /tmp/.$$; wait";

    #[tokio::test]
    async fn kill_ends_children_and_those_in_other_sessions() {
        let (mut child, pids) = start(TWO_AND_A_SESSION);
        assert_eq!(pids.len(), 4);
        assert!(tree(&child).signal(Signal::KILL).await.unwrap());
        child.wait().unwrap();
        until_ended(&pids).await;
    }

    #[tokio::test]
    async fn signal_that_ends_process_ends_children() {
        let (mut child, pids) = start(TWO_AND_A_SESSION);
        assert!(tree(&child).signal(Signal::TERM).await.unwrap());
        child.wait().unwrap();
        until_ended(&pids).await;
    }

    #[tokio::test]
    async fn orphans_of_session_end_with_tree() {
        let (mut child, pids) = start("(sleep 301 & echo $!); sleep 302");
        let tree = tree(&child);
        assert!(tree.kill().unwrap());
        child.wait().unwrap();
        until_ended(&pids).await;
        // A second kill has no process left to end.
        assert!(!tree.kill().unwrap());
    }

    #[tokio::test]
    async fn signal_that_process_handles_leaves_children() {
        let (mut child, pids) = start("trap : USR1; sleep 301 & echo $!; wait; wait");
        let tree = tree(&child);
        assert!(tree.signal(Signal::USR1).await.unwrap());
        assert!(runs(pids[0]) && child.try_wait().unwrap().is_none());
        let pid = i32::try_from(child.id()).unwrap();
        ProcessTree::new(Process::hold(pid).unwrap(), pid).unwrap().kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn stat_with_parenthesis_in_name_is_parsed() {
        let fields = "S 1 2 3 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 777 0";
        let stat = Stat::parse(&format!("5 (a) b) {fields}")).unwrap();
        assert_eq!((stat.parent, stat.session, stat.started), (1, 3, 777));
        assert!(Stat::parse("5 (a").is_none());
    }
}
