//! A process and all that it has started.
//!
//! Engines end the process of an exec and leave its children to the container. The children are
//! found by their session and their parents: engines make an exec's process the leader of a
//! session of its own, and a process that leaves the session is found for as long as its parent
//! lives. All of them are stopped before the first one is killed, so that none forks unseen and no
//! link between them is lost.

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

/// How often a tree is looked through while it still grows. Each round stops all that it finds.
const ROUNDS: usize = 100;

/// How long a signal may take to end a process at once.
const AT_ONCE: Duration = Duration::from_millis(50);

/// How long after a signal the end of the process is taken for the signal's work.
const LATER: Duration = Duration::from_secs(10);

const STOP: i32 = 19;

/// A process whose descendants end with it.
#[derive(Debug)]
pub struct ProcessTree {
    root: Process,
    pid: i32,
    started: u64,
    /// Whether the process leads a session.
    leads: bool,
    /// The PID namespace of the process.
    namespace: Option<PathBuf>,
}

/// The descendants of a process, by their numbers.
type Members = HashMap<i32, Process>;

impl ProcessTree {
    /// Returns the tree below a process that has this number. The number has to be the one of
    /// `root` at the time of the call.
    ///
    /// # Errors
    /// `NotFound` if the process has ended.
    pub fn new(root: Process, pid: i32) -> io::Result<Self> {
        let stat = Stat::read(pid).ok_or(io::ErrorKind::NotFound)?;
        let namespace = namespace(pid);
        if !root.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { root, pid, started: stat.started, leads: stat.session == pid, namespace })
    }

    /// Takes hold of a process of a container, as [`Process::in_container`] does.
    ///
    /// # Errors
    /// Those of [`Process::in_container`].
    pub fn in_container(pid: i32, container: &str) -> io::Result<Self> {
        Self::new(Process::in_container(pid, container)?, pid)
    }

    /// Returns the process itself.
    #[must_use]
    pub const fn root(&self) -> &Process {
        &self.root
    }

    /// Sends a signal to the process. If the process ends of it, its descendants are killed.
    /// Returns `false` if the process has ended before.
    ///
    /// [`Signal::KILL`] kills the whole tree. After another signal that the process takes some
    /// time to heed, up to ten seconds, its descendants are killed when it ends, by a task.
    ///
    /// # Errors
    /// `PermissionDenied` if this user may not.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn signal(self, signal: Signal) -> io::Result<bool> {
        if signal == Signal::KILL {
            return run_blocking(move || self.kill()).await;
        }
        let (tree, members, sent) = run_blocking(move || {
            let mut members = Members::new();
            self.find(&mut members, None)?;
            let sent = self.root.signal(signal)?;
            Ok((self, members, sent))
        })
        .await?;
        if !sent {
            return Ok(false);
        }
        let ended = tree.root.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is owned by the result, and so open for as long as that lives.
        let ended = unsafe { AsyncFd::register_with_interest(ended, Interest::READABLE) }?;
        if timeout(AT_ONCE, ended.readable()).await.is_ok() {
            run_blocking(move || tree.kill_with(members)).await?;
            return Ok(true);
        }
        tokio::spawn(async move {
            if let Ok(Ok(_)) = timeout(LATER, ended.readable()).await
                && let Err(error) = run_blocking(move || tree.kill_with(members)).await
            {
                tracing::debug!(%error, "failed to end what a signalled process has started");
            }
        });
        Ok(true)
    }

    /// Kills the process and its descendants. Returns `false` if the process had ended before.
    ///
    /// # Errors
    /// `PermissionDenied` if this user may not.
    pub fn kill(&self) -> io::Result<bool> {
        self.kill_with(Members::new())
    }

    fn kill_with(&self, mut members: Members) -> io::Result<bool> {
        for member in members.values() {
            member.send(STOP)?;
        }
        self.root.send(STOP)?;
        self.find(&mut members, Some(STOP))?;
        // The descendants first: the end of the process can be the end of the container's session.
        for member in members.values() {
            member.signal(Signal::KILL)?;
        }
        self.root.signal(Signal::KILL)
    }

    /// Adds all descendants that are not among the members, and sends each a signal.
    fn find(&self, members: &mut Members, signal: Option<i32>) -> io::Result<()> {
        for _ in 0..ROUNDS {
            let before = members.len();
            for (pid, stat) in Stat::of_all()? {
                if pid == self.pid || members.contains_key(&pid) || !self.owns(members, pid, &stat)
                {
                    continue;
                }
                let Ok(process) = Process::hold(pid) else { continue };
                // The same process as before the hold, and not another one with its number.
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
        // The number of a process that lives is its own.
        let is_child = match members.get(&stat.parent) {
            Some(parent) => parent.is_alive(),
            None => stat.parent == self.pid && self.root.is_alive(),
        };
        // A session keeps its number to itself for as long as it has members.
        let in_session = self.leads
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

/// The part of `/proc/PID/stat` that shows where a process belongs.
#[derive(Debug)]
struct Stat {
    is_zombie: bool,
    parent: i32,
    session: i32,
    /// The time of its start in clock ticks.
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name before it can hold any character.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_ascii_whitespace().collect();
        Some(Self {
            is_zombie: matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// All processes that can be seen.
    fn of_all() -> io::Result<Vec<(i32, Self)>> {
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

    /// Starts a shell that leads a session and prints the numbers of its children.
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
        // After the end of all of them nothing is left to end.
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
