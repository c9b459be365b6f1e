//! Lifecycle of an instance: start, stop, kill, restart. It is the same for every engine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::engine::Engine;
use crate::keeper::{self, Root};
use crate::net::{self, Subnet};
use crate::process::{self, Process};
use crate::site::Site;
use crate::{firewall, host, netavark, poll};

/// File that marks a running instance and describes it.
const STATE: &str = "state.json";

/// Child group of the daemon and everything that it starts, except containers.
const DAEMON: &str = "daemon";

/// Launch plan of an engine, made by the engine's module.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The mount namespace; `None` if the daemon mounts nothing.
    pub(crate) root: Option<Root>,
    /// Set if this crate creates the bridge; CNI plugins create theirs.
    pub(crate) make_bridge: bool,
    /// The command of the daemon.
    pub(crate) command: Vec<String>,
    /// The environment of the daemon.
    pub(crate) environment: Vec<(String, String)>,
    /// The listening socket.
    pub(crate) socket: Option<PathBuf>,
    /// Additional environment variables for users.
    pub(crate) values: BTreeMap<String, String>,
}

/// Input of a launch plan.
#[derive(Debug)]
pub(crate) struct InstanceContext<'a> {
    pub(crate) site: &'a Site,
    pub(crate) dir: PathBuf,
    pub(crate) bridge: String,
    pub(crate) subnet: Subnet,
    /// The parent of the containers' control groups, as an absolute path.
    pub(crate) group: String,
}

/// Record of a running instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) keeper: Option<Process>,
    pub(crate) daemon: Process,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) version: String,
    pub(crate) values: BTreeMap<String, String>,
    command: Vec<String>,
    environment: Vec<(String, String)>,
}

impl State {
    pub(crate) fn read(site: &Site, engine: Engine) -> Option<Self> {
        let text = fs::read(site.dir(engine.name()).join(STATE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn write(&self, dir: &Path) -> Result<()> {
        // Written atomically, because other processes may read it at any time.
        let draft = dir.join("state.draft");
        fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        fs::rename(draft, dir.join(STATE))?;
        Ok(())
    }

    /// Returns true if the daemon runs and responds.
    pub(crate) fn is_healthy(&self, engine: Engine) -> bool {
        self.daemon.is_alive() && engine.probe(self).is_ok()
    }
}

pub(crate) fn group(site: &Site, engine: Engine) -> Result<Group> {
    Group::new(&format!("{}/{}", site.tag(), engine.name()))
}

pub(crate) fn daemon_group(site: &Site, engine: Engine) -> Result<Group> {
    Group::new(&format!("{}/{}/{DAEMON}", site.tag(), engine.name()))
}

/// Starts an engine, unless it is running.
pub(crate) fn up(site: &Site, engine: Engine) -> Result<State> {
    for needed in engine.needs() {
        up(site, *needed)?;
    }
    let _lock = site.lock(engine.name())?;
    if let Some(state) = State::read(site, engine)
        && state.is_healthy(engine)
    {
        return Ok(state);
    }
    let start = Instant::now();
    let dir = site.dir(engine.name());
    if dir.exists() || group(site, engine)?.exists() {
        clear(site, engine)?;
    }
    engine.install()?;
    let host = host::prepare(site, engine.host_directories())?;
    crate::log_progress(engine.name(), "starting");
    let done = start_new(site, engine, &dir, host.octet);
    match done {
        Ok(state) => {
            crate::log_progress(
                engine.name(),
                &format!("{} is up ({:.1?})", state.version, start.elapsed()),
            );
            Ok(state)
        }
        Err(error) => {
            // A partly started engine is removed; its log is part of the error.
            let error = error.context(format!("failed to start {}", engine.name()));
            let _ = clear(site, engine);
            let _ = host::release(site);
            Err(error)
        }
    }
}

fn start_new(site: &Site, engine: Engine, dir: &Path, octet: u8) -> Result<State> {
    fs::create_dir_all(dir)?;
    site.shared_dir()?;
    let context = InstanceContext {
        site,
        dir: dir.to_owned(),
        bridge: bridge(site, engine),
        subnet: Subnet::new(octet, engine.slot()),
        group: format!("/{}/{}", site.tag(), engine.name()),
    };
    let plan = engine.plan(&context)?;
    let daemons = daemon_group(site, engine)?;
    daemons.create()?;
    let keeper = match &plan.root {
        Some(root) => Some(keeper::start(site, dir, &daemons, root)?),
        None => None,
    };
    if plan.make_bridge {
        net::create_bridge(&context.bridge, context.subnet)?;
    }
    let mut state = State {
        daemon: launch(site, engine, keeper.as_ref(), &plan.command, &plan.environment)?,
        keeper,
        socket: plan.socket,
        version: String::new(),
        values: plan.values,
        command: plan.command,
        environment: plan.environment,
    };
    state.version = wait_healthy(site, engine, &state)?;
    engine.finish(&context, &state)?;
    state.write(dir)?;
    Ok(state)
}

fn launch(
    site: &Site,
    engine: Engine,
    keeper: Option<&Process>,
    command: &[String],
    environment: &[(String, String)],
) -> Result<Process> {
    let mut line = match keeper {
        Some(keeper) => keeper::enter(keeper)?,
        None => Vec::new(),
    };
    line.extend(command.iter().cloned());
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let log = log(site, engine);
    process::spawn(&daemon_group(site, engine)?, &log, &environment, &line)
}

fn wait_healthy(site: &Site, engine: Engine, state: &State) -> Result<String> {
    let mut last = None;
    poll::until(Duration::from_secs(60), "a response", || {
        match engine.probe(state) {
            Ok(version) => return Ok(Some(version)),
            Err(error) => last = Some(error),
        }
        anyhow::ensure!(
            state.daemon.is_alive(),
            "the daemon exited:\n{}",
            keeper::tail(&log(site, engine))
        );
        Ok(None)
    })
    .with_context(|| format!("last probe: {last:?}"))
}

/// Stops an engine and removes everything that belongs to it.
pub(crate) fn down(site: &Site, engine: Engine) -> Result<bool> {
    let _lock = site.lock(engine.name())?;
    let found = site.dir(engine.name()).exists() || group(site, engine)?.exists();
    if found {
        crate::log_progress(engine.name(), "stopping");
        clear(site, engine)?;
    }
    host::release(site)?;
    Ok(found)
}

/// Kills every process of an instance and removes its traces, also for a broken instance.
///
/// Nothing is stopped gracefully: all state of the engine is removed, its mounts disappear with the
/// namespace, and its links with their network namespaces.
fn clear(site: &Site, engine: Engine) -> Result<()> {
    let limit = Duration::from_secs(30);
    let group = group(site, engine)?;
    let dir = site.dir(engine.name());
    // The daemon is killed first, so that it starts nothing new; then the containers, while their
    // shims can reap them; then the rest, including the keeper.
    if let Some(state) = State::read(site, engine) {
        state.daemon.kill()?;
    }
    engine.kill_strays(site)?;
    group.kill_all(Some(DAEMON), limit)?;
    group.kill_all(None, limit)?;
    group.remove(limit)?;
    net::remove_bridge(&bridge(site, engine))?;
    if let Some(host) = host::read(site) {
        let subnet = Subnet::new(host.octet, engine.slot());
        firewall::remove_ports_of(subnet);
        netavark::remove_network(subnet, &bridge(site, engine));
    }
    if dir.exists() {
        // The log is kept for diagnosis.
        let kept = site.root().join(format!("{}.last.log", engine.name()));
        let _ = fs::rename(log(site, engine), kept);
        fs::remove_dir_all(&dir).with_context(|| format!("failed to remove {}", dir.display()))?;
    }
    Ok(())
}

/// Kills the daemon like a crash: its containers and their shims survive.
pub(crate) fn kill_hard(site: &Site, engine: Engine) -> Result<()> {
    let _lock = site.lock(engine.name())?;
    known(site, engine)?.daemon.kill()
}

/// Starts a killed daemon, or kills and starts a running one.
pub(crate) fn restart(site: &Site, engine: Engine) -> Result<State> {
    let _lock = site.lock(engine.name())?;
    let mut state = known(site, engine)?;
    state.daemon.terminate(Duration::from_secs(30))?;
    if let Some(keeper) = &state.keeper {
        engine.forget_pids(keeper)?;
    }
    state.daemon = launch(site, engine, state.keeper.as_ref(), &state.command, &state.environment)?;
    // Recorded before it is healthy, so that it can be found and stopped in any case.
    state.write(&site.dir(engine.name()))?;
    wait_healthy(site, engine, &state)?;
    Ok(state)
}

/// Returns the record of an engine that must be up.
pub(crate) fn known(site: &Site, engine: Engine) -> Result<State> {
    State::read(site, engine).with_context(|| format!("{} is not up", engine.name()))
}

/// Returns the path of the daemon's log.
pub(crate) fn log(site: &Site, engine: Engine) -> PathBuf {
    site.dir(engine.name()).join("daemon.log")
}

pub(crate) fn bridge(site: &Site, engine: Engine) -> String {
    format!("{}-{}", site.tag(), engine.slot())
}
