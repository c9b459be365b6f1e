//! An engine that a test has for itself: it may be killed, and what it has may be counted.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use cri_tests::Environment;
use runtime_conformance::BoxError;
use runtime_core::Scope;
use runtime_cri::CriOptions;
use test_engines::Site;

use super::support::{Engine, scope};

const ENGINE: test_engines::Engine = test_engines::Engine::ContainerdFaults;

/// The engine.
pub(super) struct Own(test_support::Own);

impl Own {
    pub(super) async fn up() -> Result<Self, BoxError> {
        Ok(Self(test_support::Own::up(ENGINE).await?))
    }

    /// The engine with a small file system, which it sees at the same path as the host.
    pub(super) async fn up_with_disk(options: &str) -> Result<(Self, PathBuf), BoxError> {
        let path = Environment::read()?.shared.join("small-disk");
        // A mount that is made later is not seen in the engine's namespace.
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

    /// A connection with a scope of its own.
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

    /// How much there is of what a sandbox is made of, as the host and the engine's namespace
    /// show it.
    pub(super) fn count(&self) -> Result<BTreeMap<&'static str, usize>, BoxError> {
        let process = PathBuf::from(format!("/proc/{}", self.process().pid));
        let inside = |path: &str| entries(&process.join("root").join(path));
        let shared = Environment::read()?.shared;
        let logs = shared.join(format!("{ENGINE}-logs"));
        let state = process.join("root").join(shared.strip_prefix("/")?);
        let rules = run(std::process::Command::new("iptables").args(["-w", "-t", "nat", "-S"]))?;
        // Those of this engine bear the name of its network; others come and go.
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
            ("sockets of this process", sockets()?),
        ]))
    }
}

impl Deref for Own {
    type Target = test_support::Own;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A small file system, for as long as it is needed.
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

/// What is in the folders of a folder.
fn below(folder: &Path) -> usize {
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    folders.map(|folder| entries(&folder.path())).sum()
}

/// A held port is a socket that listens.
fn sockets() -> Result<usize, BoxError> {
    let own: Vec<_> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    let listening = |line: &&str| line.split_whitespace().nth(3) == Some("0A");
    Ok(["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| {
            let inodes = table
                .lines()
                .filter(listening)
                .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(9)?)));
            inodes.filter(|inode| own.contains(inode)).collect::<Vec<_>>()
        })
        .count())
}
