//! Processes of an engine on this host.

#![allow(
    unsafe_code,
    reason = "one call is unsafe only for reserved signals; see its SAFETY comment"
)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime_core::Signal;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

mod tree;

pub use tree::ProcessTree;

/// A process, held by a pidfd. The handle refers to the same process even if its PID is reused.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
}

impl Process {
    /// Opens the process with this PID. The caller has to check afterwards that it is the intended
    /// process.
    ///
    /// # Errors
    /// `NotFound` if no process has this PID.
    pub fn hold(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self { fd }),
            Err(rustix::io::Errno::SRCH) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a process by the PID that an engine reported for a container.
    ///
    /// The PID alone is not sufficient: the engine may run in another PID namespace or on another
    /// host, and the process may have ended. This method checks that the process is in a control
    /// group of the container, and that it had not ended when the control group was read, so that
    /// the PID was still its own.
    ///
    /// # Errors
    /// `NotFound` if no process has this PID or the process has ended; `InvalidInput` if the
    /// process does not belong to the container.
    pub fn in_container(pid: i32, container: &str) -> io::Result<Self> {
        let process = Self::hold(pid)?;
        let belongs = is_in_container(pid, container);
        if !process.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if !belongs {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the process with this PID does not belong to the container",
            ));
        }
        Ok(process)
    }

    /// Returns `true` if the process has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        // The descriptor becomes readable when the process ends.
        matches!(rustix::event::poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// Sends a signal. Returns `false` if the process has ended.
    ///
    /// # Errors
    /// `PermissionDenied` if this user may not signal the process.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        self.send(signal.number().into())
    }

    fn send(&self, signal: i32) -> io::Result<bool> {
        // SAFETY: the call is unsound only for a signal that the C library reserves and that is
        // sent to or handled by this process; this signal is sent to another process.
        let signal = unsafe { rustix::process::Signal::from_raw_unchecked(signal) };
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns `true` if this process and the process with PID `pid` share the namespace of this kind
/// (`pid`, `mnt`), or `None` if that cannot be determined.
#[must_use]
pub fn shares_namespace(pid: i32, kind: &str) -> Option<bool> {
    let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    Some(theirs == fs::read_link(format!("/proc/self/ns/{kind}")).ok()?)
}

/// Returns `true` if the process with PID `pid` is in a control group of the container `id`, as
/// seen by this process. Engines include the full id in the name of the control group.
#[must_use]
pub fn is_in_container(pid: i32, id: &str) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
    !id.is_empty() && groups.is_ok_and(|groups| groups.contains(id))
}

/// Returns `true` if the effective user of this process is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn signal_after_exit_returns_false() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::hold(pid).unwrap();
        assert!(process.signal(Signal::USR1).unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(10));
        assert!(!process.signal(Signal::USR1).unwrap());
        assert_eq!(Process::hold(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn shares_namespace_with_self_returns_true() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(shares_namespace(pid, "pid"), Some(true));
        assert_eq!(shares_namespace(pid, "none"), None);
        assert!(!is_in_container(pid, &"0123456789abcdef".repeat(4)));
        assert!(!is_in_container(pid, ""));
    }
}
