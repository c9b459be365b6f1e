//! Processes of an engine that runs on this host.

#![allow(unsafe_code, reason = "one call is marked unsafe for what is not done here; it says why")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use runtime_core::Signal;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

mod tree;

pub use tree::ProcessTree;

/// A process that keeps its identity: its number is not given to another one unnoticed.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
}

impl Process {
    /// Takes hold of the process that has this number now. That it is the one that is meant has
    /// to be checked afterwards.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn hold(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self { fd }),
            Err(rustix::io::Errno::SRCH) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes hold of the process of a container that an engine has named by this number.
    ///
    /// A number proves nothing: the engine may run in another PID namespace or on another host,
    /// and the process may have ended since. The process is in a control group of the container,
    /// and has not ended after that was read, so that the number was its own at that time.
    ///
    /// # Errors
    /// `NotFound` if no process has this number or the process has ended; `InvalidInput` if the
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
                "the process with this number does not belong to the container",
            ));
        }
        Ok(process)
    }

    /// Whether the process has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        // The descriptor is readable once the process has ended.
        matches!(rustix::event::poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// Sends it a signal. One that has ended is no error of this call: gives `false`.
    ///
    /// # Errors
    /// `PermissionDenied` when this user may not.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        self.send(signal.number().into())
    }

    fn send(&self, signal: i32) -> io::Result<bool> {
        // SAFETY: it is wrong only for a signal that the C library keeps for itself and that is
        // sent to or handled by this process; this one goes to another.
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

/// Whether this process and the one with this number are in the same namespace of this kind
/// (`pid`, `mnt`), `None` where that cannot be found out.
#[must_use]
pub fn shares_namespace(pid: i32, kind: &str) -> Option<bool> {
    let theirs = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    Some(theirs == fs::read_link(format!("/proc/self/ns/{kind}")).ok()?)
}

/// Whether the process with this number is in a control group of the container with this id, as far
/// as this process sees it. Engines put the whole id into the name of the group.
#[must_use]
pub fn is_in_container(pid: i32, id: &str) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
    !id.is_empty() && groups.is_ok_and(|groups| groups.contains(id))
}

/// Whether this process may do what only root may.
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
    fn a_signal_reaches_the_process_and_is_refused_after_its_end() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::hold(pid).unwrap();
        assert!(process.signal(Signal::USR1).unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(10));
        assert!(!process.signal(Signal::USR1).unwrap());
        assert_eq!(Process::hold(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn this_process_shares_its_own_namespaces() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(shares_namespace(pid, "pid"), Some(true));
        assert_eq!(shares_namespace(pid, "none"), None);
        assert!(!is_in_container(pid, &"0123456789abcdef".repeat(4)));
        assert!(!is_in_container(pid, ""));
    }
}
