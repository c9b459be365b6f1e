//! Processes of the cluster, recorded so that other processes can find them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::LOG_NAME;
use super::components::Component;
use super::layout::{Layout, Ports};
use crate::process::{self, Process};
use crate::site::Site;
use crate::{instance, keeper, poll};

/// A process and its command line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) process: Process,
    command: Vec<String>,
    environment: Vec<(String, String)>,
    /// Set if the process is in the node's mount namespace.
    inside: bool,
}

/// Record of the cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Members {
    pub(crate) ports: Ports,
    pub(crate) by_name: BTreeMap<String, Member>,
}

impl Members {
    pub(crate) fn read(layout: &Layout) -> Result<Self> {
        let text = fs::read(layout.file(FILE)).context("the cluster is not up")?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Records a cluster without processes.
    pub(crate) fn begin(site: &Site, ports: Ports) -> Result<()> {
        Self { ports, by_name: BTreeMap::new() }.write(site)
    }

    fn write(&self, site: &Site) -> Result<()> {
        let file = Layout::of(site).file(FILE);
        let draft = file.with_extension("draft");
        fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        fs::rename(draft, file)?;
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Member> {
        self.by_name.get(name).with_context(|| format!("the cluster has no process {name}"))
    }
}

const FILE: &str = "cluster.json";

/// Changes the record; safe for concurrent threads and processes.
fn update<T>(site: &Site, change: impl FnOnce(&mut Members) -> Result<T>) -> Result<T> {
    let _lock = site.lock("kubernetes-members")?;
    let mut members = Members::read(&Layout::of(site))?;
    let answer = change(&mut members)?;
    members.write(site)?;
    Ok(answer)
}

/// Launch options of a process.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) name: &'a str,
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// The keeper of the mount namespace for the process.
    pub(crate) keeper: Option<&'a Process>,
}

/// Starts a process and records it.
pub(crate) fn launch(site: &Site, launch: Launch<'_>) -> Result<Process> {
    let member = Member {
        process: spawn(site, launch.name, launch.keeper, &launch.environment, &launch.command)?,
        command: launch.command,
        environment: launch.environment,
        inside: launch.keeper.is_some(),
    };
    let process = member.process.clone();
    update(site, |members| {
        members.by_name.insert(launch.name.to_owned(), member);
        Ok(())
    })?;
    Ok(process)
}

/// Kills a process, if it is alive, and starts it with the same command line.
pub(crate) fn restart(site: &Site, name: &str) -> Result<Process> {
    update(site, |members| {
        let member = members
            .by_name
            .get_mut(name)
            .with_context(|| format!("the cluster has no process {name}"))?;
        member.process.terminate(Duration::from_secs(15))?;
        let state = instance::known(site, crate::Engine::Kubernetes)?;
        let keeper = state.keeper.as_ref().filter(|_| member.inside);
        member.process = spawn(site, name, keeper, &member.environment, &member.command)?;
        Ok(member.process.clone())
    })
}

/// Kills a process and removes its record.
pub(crate) fn remove(site: &Site, name: &str) -> Result<()> {
    update(site, |members| match members.by_name.remove(name) {
        Some(member) => member.process.kill(),
        None => Ok(()),
    })
}

/// Kills all processes, also of a broken cluster.
pub(crate) fn kill_all(site: &Site) -> Result<()> {
    let Ok(members) = Members::read(&Layout::of(site)) else {
        return Ok(());
    };
    for member in members.by_name.values() {
        member.process.signal_kill()?;
    }
    for member in members.by_name.values() {
        member.process.kill()?;
    }
    Ok(())
}

/// Waits until a process is healthy; the error has the end of its log.
pub(crate) fn wait_until_healthy(
    site: &Site,
    name: &str,
    process: &Process,
    mut probe: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut last = None;
    poll::until(Duration::from_secs(120), &format!("{name} to be healthy"), || {
        anyhow::ensure!(process.is_alive(), "{name} exited:\n{}", keeper::tail(&log(site, name)));
        match probe() {
            Ok(()) => Ok(Some(())),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        }
    })
    .with_context(|| format!("last probe: {last:?}\n{}", keeper::tail(&log(site, name))))
}

/// Returns the path of a process's log.
pub(crate) fn log(site: &Site, name: &str) -> PathBuf {
    Layout::of(site).file(&format!("{name}.log"))
}

/// Moves the logs of the components to a permanent location, for diagnosis after a stop.
pub(crate) fn keep_logs(site: &Site) {
    for component in Component::ALL {
        let kept = site.root().join(format!("{LOG_NAME}-{component}.last.log"));
        // A component that was not started has no log.
        let _ = fs::rename(log(site, component.name()), kept);
    }
}

fn spawn(
    site: &Site,
    name: &str,
    keeper: Option<&Process>,
    environment: &[(String, String)],
    command: &[String],
) -> Result<Process> {
    let mut line = match keeper {
        Some(keeper) => keeper::enter(keeper)?,
        None => Vec::new(),
    };
    line.extend(command.iter().cloned());
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let group = instance::daemon_group(site, crate::Engine::Kubernetes)?;
    process::spawn(&group, &log(site, name), &environment, &line)
        .with_context(|| format!("[{LOG_NAME}] failed to start {name}"))
}
