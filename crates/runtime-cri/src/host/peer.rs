//! Process of the engine on this host: its namespaces, its files and its mounts.

#![allow(
    unsafe_code,
    reason = "a few calls are marked unsafe for what is not done here; each says why"
)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Names of the processes that serve the CRI.
pub(crate) static ENGINE_PROCESS_NAMES: [&str; 2] = ["containerd", "crio"];

/// Process at the other end of the socket, as the kernel reports it. It changes when the engine
/// restarts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pid: Arc<AtomicI32>,
}

impl Peer {
    /// Records the process at the other end of a connection.
    pub(crate) fn record(&self, stream: &UnixStream) {
        // A process of another PID namespace has the PID 0 here.
        let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).unwrap_or(0);
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Returns the PID of the engine, if the process at the other end is the engine.
    ///
    /// A relay (socat, `ssh -L`) has a PID, a root and namespaces as well, but not those of the
    /// engine behind it.
    fn pid(&self) -> Option<i32> {
        let pid = Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid > 0)?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        ENGINE_PROCESS_NAMES.contains(&name.trim_end()).then_some(pid)
    }

    /// Returns whether the other end is a process of this host that is not an engine.
    pub(crate) fn is_relay(&self) -> bool {
        self.pid.load(Ordering::Relaxed) > 0 && self.pid().is_none()
    }

    /// Returns whether both processes share the namespace of this kind, or `None` if that is
    /// unknown.
    pub(crate) fn shares_namespace(&self, kind: &str) -> Option<bool> {
        runtime_support::process::shares_namespace(self.pid()?, kind)
    }

    /// Returns whether a path is the same file in both processes, or `None` if that is unknown.
    pub(crate) fn sees_the_same(&self, path: &Path) -> Option<bool> {
        if self.shares_namespace("mnt")? {
            return Some(true);
        }
        self.sees_as(path, path)
    }

    /// Returns whether `theirs` in the engine is the same file as `ours` in this process, or `None`
    /// if that is unknown.
    pub(crate) fn sees_as(&self, theirs: &Path, ours: &Path) -> Option<bool> {
        let root = fs::File::open(format!("/proc/{}/root", self.pid()?)).ok()?;
        // A link in the path is resolved as in the engine.
        let theirs = rustix::fs::openat2(
            &root,
            theirs.strip_prefix("/").ok()?,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        );
        let theirs = match theirs {
            Ok(theirs) => fs::File::from(theirs).metadata().ok()?,
            Err(rustix::io::Errno::NOENT) => return Some(false),
            Err(_) => return None,
        };
        let Ok(ours) = fs::metadata(ours) else { return Some(false) };
        Some((theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
    }

    /// Returns whether the engine has the file open, or `None` if that is unknown.
    pub(crate) fn has_open(&self, file: &fs::Metadata) -> Option<bool> {
        let fds = format!("/proc/{}/fd", self.pid()?);
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid()?)).ok()?;
        if name.trim_end() != "containerd" {
            // CRI-O has a process for each container, with an unknown PID.
            return None;
        }
        for fd in fs::read_dir(fds).ok()? {
            // The file was closed after it was listed.
            let Ok(open) = fs::metadata(fd.ok()?.path()) else { continue };
            if (open.dev(), open.ino()) == (file.dev(), file.ino()) {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Runs `work` in the mount namespace of the engine, so that the engine sees its mounts.
    ///
    /// # Errors
    /// `Unsupported` if the mount namespace of the engine is unknown.
    pub(crate) fn among_its_mounts<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        match self.shares_namespace("mnt") {
            Some(true) => return work(),
            Some(false) => {}
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the mount namespace of the engine is not visible to this process",
                ));
            }
        }
        let pid = self.pid().unwrap_or_default();
        let namespace = fs::File::open(format!("/proc/{pid}/ns/mnt"))?;
        let enter = move || {
            // SAFETY: unsharing file descriptors is unsafe, but only the root and the working
            // directory of this thread are unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(LinkNameSpaceType::Mount),
            )?;
            work()
        };
        // A dedicated thread, because it cannot leave the namespace.
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("engine-mounts".to_owned())
                .spawn_scoped(scope, enter)?
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
    }
}

/// Registers a file descriptor for readiness to read.
pub(crate) fn readable(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the result owns the `Arc`, and the descriptor does not change while the `Arc` lives.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peer_that_is_not_an_engine_is_a_relay() {
        // The process of this test acts as the relay.
        let (near, _far) = UnixStream::pair().unwrap();
        let peer = Peer::default();
        peer.record(&near);
        assert!(peer.is_relay());
        assert_eq!(peer.shares_namespace("pid"), None);
        assert_eq!(peer.sees_the_same(Path::new("/")), None);
        let error = peer.among_its_mounts(|| Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
