//! Dedicated engine of a test: it may be killed, and its objects may be counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cri_tests::Environment;
use runtime_conformance::BoxError;
use runtime_core::Scope;
use runtime_cri::CriOptions;
use rustix::net::{SocketType, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use test_engines::Site;

use super::support::{Engine, scope};

const ENGINE: test_engines::Engine = test_engines::Engine::ContainerdFaults;

/// Key of the ports that this process holds, in a count.
pub(super) const HELD_PORTS: &str = "ports held by this process";

/// Dedicated engine.
pub(super) struct Own(test_support::Own);

impl Own {
    pub(super) async fn up() -> Result<Self, BoxError> {
        Ok(Self(test_support::Own::up(ENGINE).await?))
    }

    /// Starts the engine with a small file system, which it sees at the same path as the host.
    pub(super) async fn up_with_disk(options: &str) -> Result<(Self, PathBuf), BoxError> {
        let path = Environment::read()?.shared.join("small-disk");
        // A later mount is not visible in the engine's namespace.
        let own = test_support::Own::up_with(ENGINE, || Disk::mount(options, &path)).await?;
        Ok((Self(own), path))
    }

    fn environment(&self) -> Result<Environment, BoxError> {
        Ok(Environment {
            endpoint: self.host()?,
            engine: ENGINE.name().to_owned(),
            cdi: None,
            ..Environment::read()?
        })
    }

    /// Connects with a scope of its own.
    pub(super) async fn connect(&self) -> Result<Engine, BoxError> {
        self.connect_as(scope(), |options| options).await
    }

    pub(super) async fn connect_as(
        &self,
        scope: Scope,
        change: impl FnOnce(CriOptions) -> CriOptions,
    ) -> Result<Engine, BoxError> {
        Engine::at(self.environment()?, scope, change).await
    }

    /// Counts the parts of sandboxes, as seen by the host and by the engine's namespace.
    pub(super) fn count(&self) -> Result<BTreeMap<&'static str, usize>, BoxError> {
        let process = PathBuf::from(format!("/proc/{}", self.process().pid));
        let inside = |path: &str| entries(&process.join("root").join(path));
        let shared = Environment::read()?.shared;
        let logs = shared.join(format!("{ENGINE}-logs"));
        let state = process.join("root").join(shared.strip_prefix("/")?);
        let rules = run(std::process::Command::new("iptables").args(["-w", "-t", "nat", "-S"]))?;
        // The objects of this engine carry the name of its network; the number of others varies.
        let network = Site::of_checkout()?.dir(ENGINE.name()).join("cni/10-test.conflist");
        let network: serde_json::Value = serde_json::from_slice(&std::fs::read(network)?)?;
        let network = network["name"].as_str().ok_or("a network without a name")?.to_owned();
        Ok(BTreeMap::from([
            ("network namespaces", inside("run/netns")),
            ("addresses", below(&process.join("root/run/cni/networks"))),
            ("mounts", std::fs::read_to_string(process.join("mountinfo"))?.lines().count()),
            ("log folders", below(&logs)),
            ("folders of shared memory", below(&state.join(format!("{ENGINE}-state")))),
            ("packet filter rules", rules.lines().filter(|rule| rule.contains(&network)).count()),
            (HELD_PORTS, held_ports()?.len()),
        ]))
    }
}

impl Deref for Own {
    type Target = test_support::Own;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Small file system, mounted until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(options: &str, path: &Path) -> Result<Self, BoxError> {
        std::fs::create_dir_all(path)?;
        let mount = ["-t", "tmpfs", "-o", options, "tmpfs"];
        run(std::process::Command::new("mount").args(mount).arg(path))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(std::process::Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn run(command: &mut std::process::Command) -> Result<String, BoxError> {
    let done = command.output()?;
    if !done.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    Ok(String::from_utf8(done.stdout)?)
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).into_iter().flatten().count()
}

/// Returns the number of entries in the subdirectories of a directory.
fn below(folder: &Path) -> usize {
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    folders.map(|folder| entries(&folder.path())).sum()
}

/// Returns the ports that this process holds with sockets that are bound to all addresses and do not listen.
///
/// These sockets are in no table under `/proc/net`. So each socket is queried through a duplicate of its
/// descriptor.
fn held_ports() -> Result<BTreeSet<u16>, BoxError> {
    let this = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let mut held = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // A descriptor that was closed after the listing fails here, or with EBADF below.
        let Ok(link) = std::fs::read_link(entry.path()) else { continue };
        if !link.to_string_lossy().starts_with("socket:") {
            continue;
        }
        let number = entry.file_name().to_string_lossy().parse::<i32>()?;
        match rustix::process::pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) {
            Ok(socket) => held.extend(held_port(&socket)),
            Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(held)
}

fn held_port(socket: &OwnedFd) -> Option<u16> {
    let of_tcp = sockopt::socket_type(socket).ok()? == SocketType::STREAM;
    let address = SocketAddrV4::try_from(rustix::net::getsockname(socket).ok()?).ok()?;
    let listens = sockopt::socket_acceptconn(socket).ok()?;
    // A socket that is or was connected has an address of its own.
    let holds = of_tcp && !listens && address.ip().is_unspecified() && address.port() != 0;
    holds.then(|| address.port())
}
