//! Processes that outlive their starter, identified by PID and start time.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::poll;

/// Search path of daemons, independent of the user's.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process, distinct from later processes with the same PID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The PID.
    pub pid: i32,
    /// Start time in clock ticks since the boot.
    start: u64,
    /// The boot id.
    boot: String,
}

impl Process {
    /// Returns the process that currently has this PID.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        let (state, start) = stat(pid)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        (!matches!(state, 'Z' | 'X')).then(|| Self { pid, start, boot: boot.trim().to_owned() })
    }

    /// Returns true while the process runs; false for a zombie.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid).as_ref() == Some(self)
    }

    /// Sends a signal, if the process is still the recorded one.
    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(());
        };
        // The descriptor pins the process: if it matches after opening, it cannot change.
        let Ok(pinned) = pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(());
        };
        if !self.is_alive() {
            return Ok(());
        }
        match pidfd_send_signal(&pinned, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("failed to signal pid {}", self.pid)),
        }
    }

    /// Kills the process without waiting for its exit.
    pub(crate) fn signal_kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Kills the process and waits until it is gone.
    ///
    /// # Errors
    /// If the signal is not permitted, or the process does not exit.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_gone(Duration::from_secs(20))
    }

    /// Sends SIGTERM and waits; kills the process after the grace.
    ///
    /// # Errors
    /// Same as [`Process::kill`].
    pub fn terminate(&self, grace: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        // A stopped process handles SIGTERM only after SIGCONT.
        self.signal(Signal::CONT)?;
        match self.wait_gone(grace) {
            Ok(()) => Ok(()),
            Err(_) => self.kill(),
        }
    }

    /// Stops the process: its sockets stay open and do not respond. All threads are stopped when
    /// this method returns.
    ///
    /// # Errors
    /// If the signal is not permitted.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let limit = Duration::from_secs(10);
        poll::until(limit, &format!("pid {} to stand still", self.pid), || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.pid))?;
            let still = threads.flatten().all(|thread| {
                let stat = fs::read_to_string(thread.path().join("stat"));
                // A thread that has exited counts as stopped.
                stat.ok().and_then(|stat| parse_stat(&stat)).is_none_or(|(state, _)| state == 'T')
            });
            Ok(still.then_some(()))
        })
    }

    /// Continues a frozen process.
    ///
    /// # Errors
    /// If the signal is not permitted.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    pub(crate) fn wait_gone(&self, limit: Duration) -> Result<()> {
        poll::until(limit, &format!("the end of pid {}", self.pid), || {
            // The main thread may have exited while others still hold sockets open.
            let threads =
                fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
            let gone = !self.is_alive()
                && (threads <= 1 || stat(self.pid).is_none_or(|(_, start)| start != self.start));
            Ok(gone.then_some(()))
        })
    }
}

/// Returns state and start time of a process from `/proc`.
fn stat(pid: i32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<(char, u64)> {
    // The name in parentheses can contain spaces and parentheses, so only the text after the last
    // one is split.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// Starts a daemon in its own session and control group, with its output in a log file.
///
/// The program must be an absolute path or in the standard directories.
pub(crate) fn spawn(
    group: &Group,
    log: &Path,
    environment: &[(&str, String)],
    command: &[String],
) -> Result<Process> {
    let log_file = File::options().create(true).append(true).open(log)?;
    // `setsid` does not fork, because a new child leads no process group, and neither does the
    // shell after joining the group: the child's PID is the daemon's PID.
    let mut child = Command::new("setsid")
        .args(["sh", "-ec", "echo $$ > \"$0\"; exec \"$@\""])
        .arg(group.procs_file())
        .args(command)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log_file.try_clone()?)
        .stderr(log_file)
        .spawn()
        .context("failed to run setsid (package util-linux)")?;
    let pid = i32::try_from(child.id())?;
    let process = Process::find(pid);
    // The exit status must be reaped, or the dead daemon stays a zombie while this process lives.
    std::thread::spawn(move || child.wait());
    process.with_context(|| format!("{} exited immediately, see {}", command[0], log.display()))
}

/// Runs a short command; returns its stdout. The error has its stderr.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    output(Command::new(program).args(args))
}

/// Runs a prepared command like [`run`].
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to run {program}"))?;
    anyhow::ensure!(
        done.status.success(),
        "{program} {:?} failed ({}): {}",
        command.get_args().collect::<Vec<_>>(),
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_parentheses_in_name_is_parsed() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(parse_stat(line), Some(('S', 4711)));
    }

    #[test]
    fn process_with_other_start_time_is_not_killed() {
        let me = Process::find(std::process::id().cast_signed()).unwrap();
        assert!(me.is_alive());
        let other = Process { start: me.start + 1, ..me };
        assert!(!other.is_alive());
        // The test process is not killed: the recorded process does not exist.
        other.kill().unwrap();
    }

    #[test]
    fn zombie_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        poll::until(Duration::from_secs(5), "a zombie", || {
            Ok(matches!(stat(pid), Some(('Z', _))).then_some(()))
        })
        .unwrap();
        assert_eq!(Process::find(pid), None);
        child.wait().unwrap();
    }
}
