//! Detection of engines that share this host's PIDs and files.
//!
//! The peer of a Unix socket is not sufficient: `ssh -L` and `socat` put a process of this host in
//! front of an engine on another host or in another PID namespace, and a listening socket that a
//! service manager opened has the service manager as its peer. [`Locality::of_socket`] therefore
//! opens a connection, requests the socket at its other end from the kernel, and accepts only a
//! process that runs the engine's program and holds that socket.
//!
//! Two facts are determined separately: that a PID of the engine refers to the same process on this
//! host ([`Locality::shares_pids`]), and the root directory of the engine ([`Locality::root`]).
//! Before a signal, [`Process::in_container`](crate::process::Process) also checks for each process
//! that it belongs to the container.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::process::{Process, shares_namespace};

/// Maximum time for the engine to accept the probe connection.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum interval of the search for the process that accepted the connection.
const SEARCH_INTERVAL_MAX: Duration = Duration::from_millis(20);

/// Maximum duration of the search for the process that holds an accepted socket.
const HOLDER_SEARCH_MAX: Duration = Duration::from_millis(100);

/// Location of an engine, as far as this host can determine it.
#[derive(Debug, Default)]
pub struct Locality {
    engine: Option<EngineProcess>,
}

#[derive(Debug)]
struct EngineProcess {
    process: Process,
    pid: i32,
    shares_pids: bool,
}

impl Locality {
    /// Returns the locality of an engine at an unknown location, for example behind TCP.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// Determines the location of the engine behind a Unix socket. `programs` are the file names of
    /// the engine's executable.
    ///
    /// The location is unknown if another program accepts the connection, or if this user may not
    /// inspect the engine's process.
    pub async fn of_socket(path: &Path, programs: &'static [&'static str]) -> Self {
        let search = async {
            let stream = UnixStream::connect(path).await?;
            let (start, mut accepted) = (Instant::now(), None);
            let mut backoff =
                runtime_core::Backoff::new(Duration::from_millis(1), SEARCH_INTERVAL_MAX);
            loop {
                let fd = stream.as_fd().try_clone_to_owned()?;
                let found =
                    tokio::task::spawn_blocking(move || SocketHolder::find(fd.as_fd(), programs))
                        .await
                        .map_err(io::Error::other)??;
                match found {
                    SocketHolder::Engine(engine) => return Ok(Some(engine)),
                    SocketHolder::NotAccepted if start.elapsed() > ACCEPT_TIMEOUT => {
                        return Ok(None);
                    }
                    SocketHolder::NotAccepted => {}
                    // The descriptor appears in the process shortly after the accept.
                    SocketHolder::Other => {
                        if accepted.get_or_insert_with(Instant::now).elapsed() > HOLDER_SEARCH_MAX {
                            return Ok(None);
                        }
                    }
                }
                sleep(backoff.delay()).await;
            }
        };
        let engine = search.await.unwrap_or_else(|error: io::Error| {
            tracing::debug!(%error, "failed to determine the location of the engine");
            None
        });
        Self { engine }
    }

    /// Returns `true` if the engine's PIDs are those of this host.
    #[must_use]
    pub fn shares_pids(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| engine.shares_pids)
    }

    /// Returns the PID of the engine's process on this host, or `None` if the process has ended or
    /// is unknown.
    #[must_use]
    pub fn engine_pid(&self) -> Option<i32> {
        let engine = self.engine.as_ref()?;
        engine.process.is_alive().then_some(engine.pid)
    }

    /// Returns the path of the engine's root directory on this host, or `None` if the engine's
    /// process has ended or is unknown.
    #[must_use]
    pub fn root(&self) -> Option<PathBuf> {
        let root = PathBuf::from(format!("/proc/{}/root", self.engine_pid()?));
        fs::metadata(root.join("proc")).ok()?;
        Some(root)
    }
}

/// Holder of the other end of a connection.
enum SocketHolder {
    NotAccepted,
    Engine(EngineProcess),
    Other,
}

impl SocketHolder {
    fn find(stream: BorrowedFd<'_>, programs: &[&str]) -> io::Result<Self> {
        let inode = match peer_inode(stream) {
            Ok(0) => return Ok(Self::NotAccepted),
            Ok(inode) => Some(inode),
            // This kernel lacks the diagnostic interface and reports only the listening process.
            Err(error) => {
                tracing::debug!(%error, "the kernel does not report the peer of the socket");
                None
            }
        };
        if let Some(inode) = inode {
            let socket = PathBuf::from(format!("socket:[{inode}]"));
            return Ok(
                find_engine(programs, |pid| holds(pid, &socket)).map_or(Self::Other, Self::Engine)
            );
        }
        let peer = rustix::net::sockopt::socket_peercred(stream)?.pid.as_raw_nonzero().get();
        Ok(find_engine(programs, |pid| pid == peer).map_or(Self::Other, Self::Engine))
    }
}

/// Searches for a process with one of these programs for which `holds` returns `true`.
fn find_engine(programs: &[&str], holds: impl Fn(i32) -> bool) -> Option<EngineProcess> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if !runs(pid, programs) {
            continue;
        }
        let Ok(process) = Process::hold(pid) else { continue };
        let shares_pids = shares_namespace(pid, "pid") == Some(true);
        // While the process lives, the PID belongs to the process that was opened.
        if runs(pid, programs) && holds(pid) && process.is_alive() {
            return Some(EngineProcess { process, pid, shares_pids });
        }
    }
    None
}

/// Returns `true` if the process runs one of these programs.
fn runs(pid: i32, programs: &[&str]) -> bool {
    let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let Some(name) = program.file_name().and_then(|name| name.to_str()) else { return false };
    // Present if an upgrade has replaced the file since the process started.
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    programs.contains(&name)
}

fn holds(pid: i32, socket: &Path) -> bool {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == socket))
}

/// `SOCK_DIAG_BY_FAMILY`, in requests and responses.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const NLM_F_REQUEST: u16 = 1;
/// `UDIAG_SHOW_PEER`.
const UDIAG_SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER`.
const UNIX_DIAG_PEER: u16 = 2;
/// Size in bytes of `nlmsghdr` and `unix_diag_msg`.
const HEADERS_SIZE: usize = 16 + 16;

/// Returns the inode of the socket at the other end of a Unix socket, 0 until the connection is
/// accepted.
fn peer_inode(stream: BorrowedFd<'_>) -> io::Result<u32> {
    let inode = u32::try_from(rustix::fs::fstat(stream)?.st_ino).map_err(io::Error::other)?;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    // nlmsghdr: length, type, flags, sequence, port. unix_diag_req: family, protocol, padding,
    // states, inode, flags of the requested attributes, cookie (none).
    let mut request = Vec::with_capacity(40);
    request.extend(40_u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([1, 0, 0, 0]);
    for word in [u32::MAX, inode, UDIAG_SHOW_PEER, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut response = [0; 4096];
    let (read, _) = rustix::net::recv(&socket, &mut response, RecvFlags::empty())?;
    parse_peer(&response[..read]).ok_or_else(|| io::Error::other("no response about the socket"))
}

/// Returns the peer's inode of a `unix_diag` response.
fn parse_peer(response: &[u8]) -> Option<u32> {
    let half = |at: usize| Some(u16::from_ne_bytes(response.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(response.get(at..at + 4)?.try_into().ok()?));
    if half(4)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut at = HEADERS_SIZE;
    while at + 4 <= response.len() {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == UNIX_DIAG_PEER && length >= 8 {
            return word(at + 4);
        }
        at += length.max(4).next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// Returns the file name of this test's executable.
    fn this_program() -> &'static [&'static str] {
        let exe = std::env::current_exe().unwrap();
        let name = exe.file_name().unwrap().to_str().unwrap().to_owned();
        Box::leak(Box::new([&*name.leak()]))
    }

    #[tokio::test]
    async fn locality_of_accepting_engine_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let accept = async { listener.accept().await.unwrap() };
        let (locality, _held) = tokio::join!(Locality::of_socket(&path, this_program()), accept);
        assert!(locality.shares_pids());
        assert_eq!(locality.engine_pid(), i32::try_from(std::process::id()).ok());
        let root = locality.root().unwrap();
        let same = fs::canonicalize(root.join(path.strip_prefix("/").unwrap()));
        assert!(same.is_ok());
    }

    #[tokio::test]
    async fn locality_behind_other_program_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let accept = async { listener.accept().await.unwrap() };
        let (locality, _held) = tokio::join!(Locality::of_socket(&path, &["dockerd"]), accept);
        assert!(!locality.shares_pids());
        assert_eq!((locality.engine_pid(), locality.root()), (None, None));
    }

    #[tokio::test]
    async fn locality_of_absent_socket_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let locality = Locality::of_socket(&dir.path().join("none"), this_program()).await;
        assert!(!locality.shares_pids() && locality.root().is_none());
    }

    #[test]
    fn answer_without_peer_returns_none() {
        assert_eq!(parse_peer(&[]), None);
        assert_eq!(parse_peer(&[0; 48]), None);
    }
}
