//! Proof that an engine shares this host's process numbers and files.
//!
//! The peer of a Unix socket is no such proof: `ssh -L` and `socat` put a process of this host
//! before an engine of another host or of another PID namespace, and a listening socket that a
//! service manager opened has the service manager as its peer. [`Locality::of_socket`] therefore
//! opens a connection, asks the kernel for the socket at its other end, and accepts only a process
//! that runs the engine's program and holds that socket.
//!
//! Two facts are proven apart from each other: that a process number of the engine names the same
//! process here ([`Locality::shares_pids`]), and the root directory that the engine sees
//! ([`Locality::root`]). Before a signal, [`Process::in_container`](crate::process::Process) also
//! proves for each process that it belongs to the container.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::process::{Process, shares_namespace};

/// How long an engine may take to accept the connection that is looked at.
const ACCEPT: Duration = Duration::from_secs(1);

/// The longest delay between two looks for the process that accepted.
const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(20);

/// How long a process is looked for that holds a socket which was accepted.
const HOLD: Duration = Duration::from_millis(100);

/// Where an engine runs, as far as this host can prove it.
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
    /// Returns the locality of an engine about which nothing is proven, such as one behind TCP.
    #[must_use]
    pub fn unknown() -> Self {
        Self::default()
    }

    /// Proves where the engine behind a Unix socket runs. `programs` are the file names of the
    /// engine's executable.
    ///
    /// Nothing is proven if the connection is accepted by another program, and if this user may
    /// not look at the engine's process.
    pub async fn of_socket(path: &Path, programs: &'static [&'static str]) -> Self {
        let look = async {
            let stream = UnixStream::connect(path).await?;
            let (start, mut accepted) = (Instant::now(), None);
            let mut backoff =
                runtime_core::Backoff::new(Duration::from_millis(1), LOOK_INTERVAL_MAX);
            loop {
                let fd = stream.as_fd().try_clone_to_owned()?;
                let found = tokio::task::spawn_blocking(move || Found::look(fd.as_fd(), programs))
                    .await
                    .map_err(io::Error::other)??;
                match found {
                    Found::Engine(engine) => return Ok(Some(engine)),
                    Found::NotAccepted if start.elapsed() > ACCEPT => return Ok(None),
                    Found::NotAccepted => {}
                    // The descriptor appears in the process a moment after the accept.
                    Found::Other => {
                        if accepted.get_or_insert_with(Instant::now).elapsed() > HOLD {
                            return Ok(None);
                        }
                    }
                }
                sleep(backoff.delay()).await;
            }
        };
        let engine = look.await.unwrap_or_else(|error: io::Error| {
            tracing::debug!(%error, "failed to prove where the engine runs");
            None
        });
        Self { engine }
    }

    /// Whether the engine's process numbers are those of this host.
    #[must_use]
    pub fn shares_pids(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| engine.shares_pids)
    }

    /// Returns the number of the engine's process on this host, while it runs.
    #[must_use]
    pub fn engine_pid(&self) -> Option<i32> {
        let engine = self.engine.as_ref()?;
        engine.process.is_alive().then_some(engine.pid)
    }

    /// Returns the path of the engine's root directory on this host, while the engine runs.
    #[must_use]
    pub fn root(&self) -> Option<PathBuf> {
        let root = PathBuf::from(format!("/proc/{}/root", self.engine_pid()?));
        fs::metadata(root.join("proc")).ok()?;
        Some(root)
    }
}

/// The holder of the other end of a connection.
enum Found {
    NotAccepted,
    Engine(EngineProcess),
    Other,
}

impl Found {
    fn look(stream: BorrowedFd<'_>, programs: &[&str]) -> io::Result<Self> {
        let inode = match peer_inode(stream) {
            Ok(0) => return Ok(Self::NotAccepted),
            Ok(inode) => Some(inode),
            // A kernel without this part. The process that listens is all that it reports.
            Err(error) => {
                tracing::debug!(%error, "the kernel does not name the peer of a socket");
                None
            }
        };
        if let Some(inode) = inode {
            let socket = PathBuf::from(format!("socket:[{inode}]"));
            return Ok(find(programs, |pid| holds(pid, &socket)).map_or(Self::Other, Self::Engine));
        }
        let peer = rustix::net::sockopt::socket_peercred(stream)?.pid.as_raw_nonzero().get();
        Ok(find(programs, |pid| pid == peer).map_or(Self::Other, Self::Engine))
    }
}

/// Looks for the process with one of these programs that `holds` accepts.
fn find(programs: &[&str], holds: impl Fn(i32) -> bool) -> Option<EngineProcess> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if !runs(pid, programs) {
            continue;
        }
        let Ok(process) = Process::hold(pid) else { continue };
        let shares_pids = shares_namespace(pid, "pid") == Some(true);
        // The number was that of the process that is held, for as long as this one lives.
        if runs(pid, programs) && holds(pid) && process.is_alive() {
            return Some(EngineProcess { process, pid, shares_pids });
        }
    }
    None
}

/// Whether the process runs one of these programs.
fn runs(pid: i32, programs: &[&str]) -> bool {
    let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let Some(name) = program.file_name().and_then(|name| name.to_str()) else { return false };
    // An upgrade has replaced the file since the process started.
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    programs.contains(&name)
}

fn holds(pid: i32, socket: &Path) -> bool {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == socket))
}

/// `SOCK_DIAG_BY_FAMILY`, as a request and as an answer.
const DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `UDIAG_SHOW_PEER`.
const SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER`.
const PEER: u16 = 2;
/// The bytes of `nlmsghdr` and of `unix_diag_msg`.
const HEADERS: usize = 16 + 16;

/// Returns the inode of the socket at the other end of a Unix socket: 0 while it is not accepted.
fn peer_inode(stream: BorrowedFd<'_>) -> io::Result<u32> {
    let inode = u32::try_from(rustix::fs::fstat(stream)?.st_ino).map_err(io::Error::other)?;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    // nlmsghdr: length, type, flags, sequence, port. unix_diag_req: family, protocol, padding,
    // states, inode, what to show, cookie (none).
    let mut request = Vec::with_capacity(40);
    request.extend(40_u32.to_ne_bytes());
    request.extend(DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([1, 0, 0, 0]);
    for word in [u32::MAX, inode, SHOW_PEER, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (read, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    parse_peer(&answer[..read]).ok_or_else(|| io::Error::other("no answer about the socket"))
}

/// Returns the peer's inode of a `unix_diag` answer.
fn parse_peer(answer: &[u8]) -> Option<u32> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    if half(4)? != DIAG_BY_FAMILY {
        return None;
    }
    let mut at = HEADERS;
    while at + 4 <= answer.len() {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == PEER && length >= 8 {
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

    /// The file name of this test's program.
    fn this_program() -> &'static [&'static str] {
        let exe = std::env::current_exe().unwrap();
        let name = exe.file_name().unwrap().to_str().unwrap().to_owned();
        Box::leak(Box::new([&*name.leak()]))
    }

    #[tokio::test]
    async fn locality_of_engine_that_accepts_is_proven() {
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
