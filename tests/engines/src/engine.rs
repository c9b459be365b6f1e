//! The engines that there are, and where each one's own part is.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::instance::{Place, Plan, State};
use crate::process::Process;
use crate::site::Site;
use crate::{containerd, docker, kubernetes, podman, registry};

/// One part of the test environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// A registry that asks for a password, filled with the test images.
    Registry,
    /// Docker Engine as Debian 12 has it (20.10).
    Docker,
    /// The same once more, for tests that kill it.
    DockerFaults,
    /// The same in a PID namespace of its own, as in a virtual machine whose socket is forwarded.
    DockerOwnPids,
    /// Podman's Docker API, as Debian 12 has it (4.3).
    Podman,
    /// Podman as Debian 13 has it (5.4).
    Podman54,
    /// Podman as Debian unstable has it (5.8).
    Podman58,
    /// Docker Engine as Debian 13 has it (26.1).
    Docker26,
    /// Docker Engine as Debian unstable has it (28.5).
    Docker28,
    /// containerd with its CRI plugin, as Debian 12 has it (1.6).
    Containerd,
    /// The same once more, for tests that kill it.
    ContainerdFaults,
    /// containerd as Debian 13 has it (1.7).
    Containerd17,
    /// containerd as Debian unstable has it (2.1).
    Containerd21,
    /// A Kubernetes cluster (1.20) of one node, built from Debian 12's sources.
    Kubernetes,
}

/// Another release of Debian, for engines newer than the machine's own.
type Suite = &'static str;

const TRIXIE: Suite = "trixie";
const SID: Suite = "sid";

/// Which module knows an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Registry,
    Docker(Option<Suite>),
    Podman(Option<Suite>),
    Containerd(Option<Suite>),
    Kubernetes,
}

impl Engine {
    /// All of them, in the order in which they come up.
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

    /// The name on command lines and of the instance's folder.
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

    /// Whether it speaks Docker's API.
    #[must_use]
    pub fn is_docker(self) -> bool {
        matches!(self.kind(), Kind::Docker(_) | Kind::Podman(_))
    }

    /// Whether it speaks the CRI.
    #[must_use]
    pub fn is_cri(self) -> bool {
        matches!(self.kind(), Kind::Containerd(_))
    }

    /// A number of its own, below 16: its part of the site's addresses.
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

    /// The engines that have to be up before it.
    pub(crate) fn needs(self) -> &'static [Self] {
        match self.kind() {
            Kind::Containerd(_) | Kind::Kubernetes => &[Self::Registry],
            _ => &[],
        }
    }

    /// Installs what is missing.
    pub(crate) fn install(self) -> Result<()> {
        match self.kind() {
            Kind::Registry => registry::install(),
            Kind::Docker(suite) => docker::install(self.name(), suite),
            Kind::Podman(suite) => podman::install(self.name(), suite),
            Kind::Containerd(suite) => containerd::install(self.name(), suite),
            Kind::Kubernetes => kubernetes::install(),
        }
    }

    /// Folders outside the site that it cannot do without.
    pub(crate) fn host_folders(self) -> &'static [&'static str] {
        match self.kind() {
            Kind::Podman(None) => podman::HOST_FOLDERS,
            Kind::Containerd(None) => containerd::HOST_FOLDERS,
            Kind::Kubernetes => kubernetes::HOST_FOLDERS,
            _ => &[],
        }
    }

    /// Writes its configuration and says how to start it.
    pub(crate) fn plan(self, place: &Place<'_>) -> Result<Plan> {
        match self.kind() {
            Kind::Registry => registry::plan(place),
            Kind::Docker(suite) => {
                let plan = docker::plan(place, suite)?;
                Ok(if self == Self::DockerOwnPids { docker::with_own_pids(plan) } else { plan })
            }
            Kind::Podman(suite) => podman::plan(place, suite),
            Kind::Containerd(suite) => containerd::plan(place, suite),
            Kind::Kubernetes => kubernetes::plan(place),
        }
    }

    /// Asks whether it is well; gives its version.
    pub(crate) fn probe(self, state: &State) -> Result<String> {
        match self.kind() {
            Kind::Registry => registry::probe(state),
            // Podman answers the same questions.
            Kind::Docker(_) | Kind::Podman(_) => docker::probe(state),
            Kind::Containerd(_) => containerd::probe(state),
            Kind::Kubernetes => kubernetes::probe(state),
        }
    }

    /// What is left to do once it answers.
    pub(crate) fn finish(self, place: &Place<'_>, state: &State) -> Result<()> {
        match self.kind() {
            Kind::Registry => registry::fill(place, state),
            Kind::Containerd(_) => containerd::load_pause(place, state),
            Kind::Kubernetes => kubernetes::finish(place, state),
            Kind::Docker(_) | Kind::Podman(_) => Ok(()),
        }
    }

    /// Makes a daemon that died believe that it did.
    pub(crate) fn forget_pids(self, keeper: &Process) -> Result<()> {
        match self.kind() {
            Kind::Docker(_) => docker::forget_pids(keeper),
            _ => Ok(()),
        }
    }

    /// Ends processes of the instance that are not in its control group, and undoes what the
    /// engine did elsewhere. The daemon is dead, its containers are not.
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
            None => bail!(
                "there is no engine `{name}`; there are {}",
                Self::ALL.map(Self::name).join(", ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_slots_are_each_one_s_own() {
        let names: BTreeSet<_> = Engine::ALL.map(Engine::name).into();
        let slots: BTreeSet<_> = Engine::ALL.map(Engine::slot).into();
        assert_eq!(names.len(), Engine::ALL.len());
        assert_eq!(slots.len(), Engine::ALL.len());
        assert!(slots.iter().all(|slot| *slot < 16));
    }

    #[test]
    fn a_name_is_read_back() {
        for engine in Engine::ALL {
            assert_eq!(engine.name().parse::<Engine>().unwrap(), engine);
        }
        assert!("dock".parse::<Engine>().is_err());
    }
}
