//! The engines that there are, and where each one's own part is.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::instance::{Place, Plan, State};
use crate::process::Process;
use crate::site::Site;
use crate::{docker, kubernetes, podman, registry};

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
    /// Podman's Docker API, as Debian 12 has it (4.3).
    Podman,
    /// Docker Engine as Debian 13 has it (26.1).
    Docker26,
    /// Docker Engine as Debian unstable has it (28.5).
    Docker28,
    /// A Kubernetes cluster (1.20) of one node, built from Debian 12's sources.
    Kubernetes,
}

impl Engine {
    /// All of them, in the order in which they come up.
    pub const ALL: [Self; 7] = [
        Self::Registry,
        Self::Docker,
        Self::DockerFaults,
        Self::Podman,
        Self::Docker26,
        Self::Docker28,
        Self::Kubernetes,
    ];

    /// The name on command lines and of the instance's folder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Docker => "docker",
            Self::DockerFaults => "docker-faults",
            Self::Podman => "podman",
            Self::Docker26 => "docker-26",
            Self::Docker28 => "docker-28",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// Whether it speaks Docker's API.
    #[must_use]
    pub fn is_docker(self) -> bool {
        !matches!(self, Self::Registry | Self::Kubernetes)
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
            Self::Kubernetes => 15,
        }
    }

    /// The Debian release that it is taken from, where that is not the machine's own.
    fn suite(self) -> Option<&'static str> {
        match self {
            Self::Docker26 => Some("trixie"),
            Self::Docker28 => Some("sid"),
            _ => None,
        }
    }

    /// Installs what is missing.
    pub(crate) fn install(self, site: &Site) -> Result<()> {
        match self {
            Self::Registry => registry::install(site),
            Self::Podman => podman::install(),
            Self::Kubernetes => kubernetes::install(site),
            _ => docker::install(self.name(), self.suite()),
        }
    }

    /// Folders outside the site that it cannot do without.
    pub(crate) fn host_folders(self) -> &'static [&'static str] {
        match self {
            Self::Podman => podman::HOST_FOLDERS,
            Self::Kubernetes => kubernetes::HOST_FOLDERS,
            _ => &[],
        }
    }

    /// Writes its configuration and says how to start it.
    pub(crate) fn plan(self, place: &Place<'_>) -> Result<Plan> {
        match self {
            Self::Registry => registry::plan(place),
            Self::Podman => podman::plan(place),
            Self::Kubernetes => kubernetes::plan(place),
            _ => docker::plan(place, self.suite()),
        }
    }

    /// Asks whether it is well; gives its version.
    pub(crate) fn probe(self, state: &State) -> Result<String> {
        match self {
            Self::Registry => registry::probe(state),
            Self::Kubernetes => kubernetes::probe(state),
            _ => docker::probe(state),
        }
    }

    /// What is left to do once it answers.
    pub(crate) fn finish(self, place: &Place<'_>, state: &State) -> Result<()> {
        match self {
            Self::Registry => registry::fill(place, state),
            Self::Kubernetes => kubernetes::finish(place, state),
            _ => Ok(()),
        }
    }

    /// Makes a daemon that died believe that it did.
    pub(crate) fn forget_pids(self, keeper: &Process) -> Result<()> {
        match self {
            Self::Registry | Self::Podman => Ok(()),
            _ => docker::forget_pids(keeper),
        }
    }

    /// Ends processes of the instance that are not in its control group, and undoes what the
    /// engine did elsewhere. The daemon is dead, its containers are not.
    pub(crate) fn kill_strays(self, site: &Site) -> Result<()> {
        match self {
            Self::Podman => podman::kill_strays(site),
            Self::Kubernetes => kubernetes::clear(site),
            _ => Ok(()),
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
