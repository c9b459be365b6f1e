//! What can be done because the engine runs on this host: signals, mounts, and a look at who
//! still writes to a file.

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

/// The names of the processes that serve the CRI.
pub(crate) static ENGINE_PROCESS_NAMES: [&str; 2] = ["containerd", "crio"];

/// The process at the other end of the socket, as the kernel says. It changes when the engine is
/// restarted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pid: Arc<AtomicI32>,
}

impl Peer {
    /// Takes note of who is at the other end.
    pub(crate) fn learn(&self, stream: &UnixStream) {
        // A process of another pid namespace has the number 0 here.
        let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).unwrap_or(0);
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// Returns the PID of the engine, if the process at the other end is the engine.
    ///
    /// A relay (socat, `ssh -L`) has a PID, a root and namespaces as well, which have nothing to do
    /// with those of the engine behind it.
    fn pid(&self) -> Option<i32> {
        let pid = Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid > 0)?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        ENGINE_PROCESS_NAMES.contains(&name.trim_end()).then_some(pid)
    }

    /// Returns whether the other end is a process of this host that is not an engine.
    pub(crate) fn is_relay(&self) -> bool {
        self.pid.load(Ordering::Relaxed) > 0 && self.pid().is_none()
    }

    /// Whether both processes are in the same namespace of this kind, `None` where that cannot be
    /// found out.
    pub(crate) fn shares_namespace(&self, kind: &str) -> Option<bool> {
        runtime_support::process::shares_namespace(self.pid()?, kind)
    }

    /// Whether the path leads both processes to the same file, `None` where that cannot be found
    /// out.
    pub(crate) fn sees_the_same(&self, path: &Path) -> Option<bool> {
        if self.shares_namespace("mnt")? {
            return Some(true);
        }
        self.sees_as(path, path)
    }

    /// Whether `theirs` leads that process to the file that `ours` is here, `None` where that
    /// cannot be found out.
    pub(crate) fn sees_as(&self, theirs: &Path, ours: &Path) -> Option<bool> {
        let root = fs::File::open(format!("/proc/{}/root", self.pid()?)).ok()?;
        // A link in the path is followed as that process would.
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

    /// Whether that process has the file open, `None` where that cannot be found out.
    pub(crate) fn has_open(&self, file: &fs::Metadata) -> Option<bool> {
        let fds = format!("/proc/{}/fd", self.pid()?);
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid()?)).ok()?;
        if name.trim_end() != "containerd" {
            // CRI-O has a helper process for each container, which we do not know.
            return None;
        }
        for fd in fs::read_dir(fds).ok()? {
            // One that was closed since is not open.
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
    /// `Unsupported` when the engine's mount namespace is not known.
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
                    "the mount namespace of the engine is not seen from here",
                ));
            }
        }
        let pid = self.pid().unwrap_or_default();
        let namespace = fs::File::open(format!("/proc/{pid}/ns/mnt"))?;
        let enter = move || {
            // SAFETY: the danger is in unsharing file descriptors, and only the root and current
            // folder of this thread are unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(LinkNameSpaceType::Mount),
            )?;
            work()
        };
        // A thread of its own, which ends with the namespace that it has entered.
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("engine-mounts".to_owned())
                .spawn_scoped(scope, enter)?
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
    }
}

/// Waits for a file to be readable.
pub(crate) fn readable(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor is the same one for as long as the `Arc` lives, which is in the
    // result.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peer_that_is_not_an_engine_proves_nothing() {
        // This test's own process stands for a relay.
        let (near, _far) = UnixStream::pair().unwrap();
        let peer = Peer::default();
        peer.learn(&near);
        assert!(peer.is_relay());
        assert_eq!(peer.shares_namespace("pid"), None);
        assert_eq!(peer.sees_the_same(Path::new("/")), None);
        let error = peer.among_its_mounts(|| Ok(())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
