//! Processes that outlive the one that started them, known by pid and start time.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::poll;

/// The search path of daemons: theirs, not that of the user who runs the tests.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One process, told apart from a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since the boot.
    start: u64,
    /// The boot that the ticks count from.
    boot: String,
}

impl Process {
    /// The process that has this pid now, if it is alive.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        let (state, start) = stat(pid)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        (!matches!(state, 'Z' | 'X')).then(|| Self { pid, start, boot: boot.trim().to_owned() })
    }

    /// True while the process runs. A zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid).as_ref() == Some(self)
    }

    /// Sends a signal, if the process is still the one that was recorded.
    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(());
        };
        // The descriptor pins the process: if it is ours after it was opened, it stays ours.
        let Ok(pinned) = pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(());
        };
        if !self.is_alive() {
            return Ok(());
        }
        match pidfd_send_signal(&pinned, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot signal pid {}", self.pid)),
        }
    }

    /// Kills it without waiting for its end.
    pub(crate) fn signal_kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Kills it at once and waits until it is gone.
    ///
    /// # Errors
    /// If it may not be signalled or does not end.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_gone(Duration::from_secs(20))
    }

    /// Asks it to end and waits; kills it when the time is over.
    ///
    /// # Errors
    /// As for [`Process::kill`].
    pub fn terminate(&self, grace: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        // A stopped process takes no TERM until it goes on.
        self.signal(Signal::CONT)?;
        match self.wait_gone(grace) {
            Ok(()) => Ok(()),
            Err(_) => self.kill(),
        }
    }

    /// Stops it without ending it: it keeps its sockets open and answers nothing. When this
    /// returns, all of its threads stand still.
    ///
    /// # Errors
    /// If it may not be signalled.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let limit = Duration::from_secs(10);
        poll::until(limit, &format!("pid {} to stand still", self.pid), || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.pid))?;
            let still = threads.flatten().all(|thread| {
                let stat = fs::read_to_string(thread.path().join("stat"));
                // A thread that has ended meanwhile stands still as well.
                stat.ok().and_then(|stat| parse_stat(&stat)).is_none_or(|(state, _)| state == 'T')
            });
            Ok(still.then_some(()))
        })
    }

    /// Lets a frozen process go on.
    ///
    /// # Errors
    /// If it may not be signalled.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    pub(crate) fn wait_gone(&self, limit: Duration) -> Result<()> {
        poll::until(limit, &format!("the end of pid {}", self.pid), || {
            // The first thread may have ended while others still hold sockets open.
            let threads =
                fs::read_dir(format!("/proc/{}/task", self.pid)).map_or(0, Iterator::count);
            let gone = !self.is_alive()
                && (threads <= 1 || stat(self.pid).is_none_or(|(_, start)| start != self.start));
            Ok(gone.then_some(()))
        })
    }
}

/// State and start time of a process, from `/proc`.
fn stat(pid: i32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<(char, u64)> {
    // The name in parentheses may itself hold blanks and parentheses: only what follows the
    // last one can be split.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// Starts a daemon: in a session and a control group of its own, output to a log file.
///
/// The program must be an absolute path or be found in the usual folders of system programs.
pub(crate) fn spawn(
    group: &Group,
    log: &Path,
    environment: &[(&str, String)],
    command: &[String],
) -> Result<Process> {
    let log_file = File::options().create(true).append(true).open(log)?;
    // `setsid` execs in place because a fresh child leads no process group, and so does the
    // shell after it has joined the group: the pid of the child is the pid of the daemon.
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
        .context("cannot run setsid (package util-linux)")?;
    let pid = i32::try_from(child.id())?;
    let process = Process::find(pid);
    // Somebody has to collect the exit status, or the dead daemon stays in the process table
    // for as long as this process lives.
    std::thread::spawn(move || child.wait());
    process.with_context(|| format!("{} ended at once, see {}", command[0], log.display()))
}

/// Runs a short command and gives its output; its error output is in the error.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    output(Command::new(program).args(args))
}

/// Runs a prepared command as [`run`] does.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
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
    fn a_name_with_parentheses_is_no_trouble() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(parse_stat(line), Some(('S', 4711)));
    }

    #[test]
    fn a_process_with_another_start_is_another_process() {
        let me = Process::find(std::process::id().cast_signed()).unwrap();
        assert!(me.is_alive());
        let other = Process { start: me.start + 1, ..me };
        assert!(!other.is_alive());
        // Nothing happens to us: the recorded process is gone.
        other.kill().unwrap();
    }

    #[test]
    fn a_zombie_is_not_alive() {
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
