//! The available engines and their modules.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::instance::{InstanceContext, Plan, State};
use crate::process::Process;
use crate::site::Site;
use crate::{containerd, docker, kubernetes, podman, registry};

/// Engine or service of the test environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// A registry with a password that contains the test images.
    Registry,
    /// Docker Engine of Debian 12 (20.10).
    Docker,
    /// Another instance of the same, for tests that kill it.
    DockerFaults,
    /// The same in a PID namespace of its own, as in a virtual machine with a forwarded socket.
    DockerOwnPids,
    /// Podman's Docker API, of Debian 12 (4.3).
    Podman,
    /// Podman of Debian 13 (5.4).
    Podman54,
    /// Podman of Debian unstable (5.8).
    Podman58,
    /// Docker Engine of Debian 13 (26.1).
    Docker26,
    /// Docker Engine of Debian unstable (28.5).
    Docker28,
    /// containerd with its CRI plugin, of Debian 12 (1.6).
    Containerd,
    /// Another instance of the same, for tests that kill it.
    ContainerdFaults,
    /// containerd of Debian 13 (1.7).
    Containerd17,
    /// containerd of Debian unstable (2.1).
    Containerd21,
    /// A Kubernetes cluster (1.20) with one node, built from Debian 12's sources.
    Kubernetes,
}

/// Another Debian release, for engines that are newer than the machine's.
type Suite = &'static str;

const TRIXIE: Suite = "trixie";
const SID: Suite = "sid";

/// Module of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Registry,
    Docker(Option<Suite>),
    Podman(Option<Suite>),
    Containerd(Option<Suite>),
    Kubernetes,
}

impl Engine {
    /// All engines in starting order.
    pub const ALL: [Self; 14] = [
        Self::Registry,
        Self::Docker,
        Self::DockerFaults,
        Self::DockerOwnPids,
        Self::Podman,
        Self::Podman54,
        Self::Podman58,
        Self::Docker26,
        Self::Docker28,
        Self::Containerd,
        Self::ContainerdFaults,
        Self::Containerd17,
        Self::Containerd21,
        Self::Kubernetes,
    ];

    /// Returns the name in commands and of the instance's directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Docker => "docker",
            Self::DockerFaults => "docker-faults",
            Self::DockerOwnPids => "docker-own-pids",
            Self::Podman => "podman",
            Self::Podman54 => "podman-54",
            Self::Podman58 => "podman-58",
            Self::Docker26 => "docker-26",
            Self::Docker28 => "docker-28",
            Self::Containerd => "containerd",
            Self::ContainerdFaults => "containerd-faults",
            Self::Containerd17 => "containerd-17",
            Self::Containerd21 => "containerd-21",
            Self::Kubernetes => "kubernetes",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Registry => Kind::Registry,
            Self::Docker | Self::DockerFaults | Self::DockerOwnPids => Kind::Docker(None),
            Self::Docker26 => Kind::Docker(Some(TRIXIE)),
            Self::Docker28 => Kind::Docker(Some(SID)),
            Self::Podman => Kind::Podman(None),
            Self::Podman54 => Kind::Podman(Some(TRIXIE)),
            Self::Podman58 => Kind::Podman(Some(SID)),
            Self::Containerd | Self::ContainerdFaults => Kind::Containerd(None),
            Self::Containerd17 => Kind::Containerd(Some(TRIXIE)),
            Self::Containerd21 => Kind::Containerd(Some(SID)),
            Self::Kubernetes => Kind::Kubernetes,
        }
    }

    /// Returns true for engines with Docker's API.
    #[must_use]
    pub fn is_docker(self) -> bool {
        matches!(self.kind(), Kind::Docker(_) | Kind::Podman(_))
    }

    /// Returns true for engines with the CRI.
    #[must_use]
    pub fn is_cri(self) -> bool {
        matches!(self.kind(), Kind::Containerd(_))
    }

    /// Returns a unique number below 16, which selects the engine's part of the site's addresses.
    pub(crate) fn slot(self) -> u8 {
        match self {
            Self::Registry => 0,
            Self::Docker => 1,
            Self::DockerFaults => 2,
            Self::Podman => 3,
            Self::Docker26 => 4,
            Self::Docker28 => 5,
            Self::Containerd => 6,
            Self::ContainerdFaults => 7,
            Self::Containerd17 => 8,
            Self::Containerd21 => 9,
            Self::Podman54 => 10,
            Self::Podman58 => 11,
            Self::DockerOwnPids => 12,
            Self::Kubernetes => 15,
        }
    }

    /// Returns the engines that must be started before.
    pub(crate) fn needs(self) -> &'static [Self] {
        match self.kind() {
            Kind::Containerd(_) | Kind::Kubernetes => &[Self::Registry],
            _ => &[],
        }
    }

    /// Installs missing packages.
    pub(crate) fn install(self) -> Result<()> {
        match self.kind() {
            Kind::Registry => registry::install(),
            Kind::Docker(suite) => docker::install(self.name(), suite),
            Kind::Podman(suite) => podman::install(self.name(), suite),
            Kind::Containerd(suite) => containerd::install(self.name(), suite),
            Kind::Kubernetes => kubernetes::install(),
        }
    }

    /// Returns required directories outside of the site.
    pub(crate) fn host_directories(self) -> &'static [&'static str] {
        match self.kind() {
            Kind::Podman(None) => podman::HOST_DIRECTORIES,
            Kind::Containerd(None) => containerd::HOST_DIRECTORIES,
            Kind::Kubernetes => kubernetes::HOST_DIRECTORIES,
            _ => &[],
        }
    }

    /// Writes the configuration and returns how to start the engine.
    pub(crate) fn plan(self, context: &InstanceContext<'_>) -> Result<Plan> {
        match self.kind() {
            Kind::Registry => registry::plan(context),
            Kind::Docker(suite) => {
                let plan = docker::plan(context, suite)?;
                Ok(if self == Self::DockerOwnPids { docker::with_own_pids(plan) } else { plan })
            }
            Kind::Podman(suite) => podman::plan(context, suite),
            Kind::Containerd(suite) => containerd::plan(context, suite),
            Kind::Kubernetes => kubernetes::plan(context),
        }
    }

    /// Checks the health; returns the version.
    pub(crate) fn probe(self, state: &State) -> Result<String> {
        match self.kind() {
            Kind::Registry => registry::probe(state),
            // Podman has the same API.
            Kind::Docker(_) | Kind::Podman(_) => docker::probe(state),
            Kind::Containerd(_) => containerd::probe(state),
            Kind::Kubernetes => kubernetes::probe(state),
        }
    }

    /// Completes the setup of an engine that responds.
    pub(crate) fn finish(self, context: &InstanceContext<'_>, state: &State) -> Result<()> {
        match self.kind() {
            Kind::Registry => registry::fill(context, state),
            Kind::Containerd(_) => containerd::load_pause(context, state),
            Kind::Kubernetes => kubernetes::finish(context, state),
            Kind::Docker(_) | Kind::Podman(_) => Ok(()),
        }
    }

    /// Removes the PID files of a dead daemon.
    pub(crate) fn forget_pids(self, keeper: &Process) -> Result<()> {
        match self.kind() {
            Kind::Docker(_) => docker::forget_pids(keeper),
            _ => Ok(()),
        }
    }

    /// Kills processes of the instance that are outside of its control group, and reverts the
    /// engine's changes elsewhere. The daemon is dead, its containers may be running.
    pub(crate) fn kill_strays(self, site: &Site) -> Result<()> {
        match self.kind() {
            Kind::Podman(_) => podman::kill_strays(site, self),
            Kind::Containerd(_) => containerd::kill_strays(site, self),
            Kind::Kubernetes => kubernetes::clear(site),
            Kind::Registry | Kind::Docker(_) => Ok(()),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|engine| engine.name() == name) {
            Some(engine) => Ok(engine),
            None => {
                bail!("no such engine: `{name}`; engines: {}", Self::ALL.map(Self::name).join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_slots_are_unique() {
        let names: BTreeSet<_> = Engine::ALL.map(Engine::name).into();
        let slots: BTreeSet<_> = Engine::ALL.map(Engine::slot).into();
        assert_eq!(names.len(), Engine::ALL.len());
        assert_eq!(slots.len(), Engine::ALL.len());
        assert!(slots.iter().all(|slot| *slot < 16));
    }

    #[test]
    fn name_round_trips() {
        for engine in Engine::ALL {
            assert_eq!(engine.name().parse::<Engine>().unwrap(), engine);
        }
        assert!("dock".parse::<Engine>().is_err());
    }
}
