//! The connected engine, by its answers to `/version` and `/info`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use runtime_core::{Error, ErrorKind, Operation, Result};
use runtime_support::version_numbers;
use serde::Deserialize;

/// A version of the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion {
    major: u16,
    minor: u16,
}

impl ApiVersion {
    pub(crate) const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// The oldest supported version: Docker Engine 20.10.
    pub(crate) const OLDEST: Self = Self::new(1, 41);
    /// The newest supported version.
    pub(crate) const NEWEST: Self = Self::new(1, 53);
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self::new(major.parse()?, minor.parse()?))
    }
}

/// The kinds of engine with this API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Docker Engine.
    Docker,
    /// Podman's Docker API.
    Podman,
}

/// The connected engine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(crate) flavour: Flavour,
    /// The name that it reports: `Docker Engine`, `Podman Engine`.
    pub(crate) name: String,
    pub(crate) version: String,
    /// The negotiated version of the API.
    pub(crate) api: ApiVersion,
    /// The version of its containerd.
    pub(crate) containerd: Option<[u32; 3]>,
    /// Its configuration.
    pub(crate) info: Info,
    pub(crate) clock: ClockOffset,
}

/// The offset of the engine's clock from this process's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ClockOffset {
    ahead: Duration,
    behind: Duration,
}

/// The offset below which the clocks count as equal. A smaller one cannot be measured, because a
/// response takes time, and most engines are on the same host.
const OFFSET_MIN: Duration = Duration::from_secs(2);

impl ClockOffset {
    pub(crate) fn compare(engine: Option<SystemTime>, here: SystemTime) -> Self {
        let Some(engine) = engine else { return Self::default() };
        let apart = |time: Result<Duration, _>| -> Duration {
            time.ok().filter(|apart| *apart >= OFFSET_MIN).unwrap_or_default()
        };
        Self {
            ahead: apart(engine.duration_since(here).map_err(drop)),
            behind: apart(here.duration_since(engine).map_err(drop)),
        }
    }

    /// Converts a time of this process to the engine's time.
    pub(crate) fn at(self, time: SystemTime) -> SystemTime {
        (time + self.ahead).checked_sub(self.behind).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Returns the earliest time of this process that a time of the engine can be. `is_same` is
    /// `true` if both read the same clock.
    pub(crate) fn earliest(self, time: SystemTime, is_same: bool) -> SystemTime {
        if is_same {
            return time;
        }
        (time + self.behind).checked_sub(self.ahead + OFFSET_MIN).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl Engine {
    /// Creates the engine from its responses.
    ///
    /// # Errors
    /// `Unsupported` if there is no common API version, or the engine runs no Linux containers.
    pub(crate) fn from_responses(version: Version, info: Info) -> Result<Self> {
        let api = version.negotiate()?;
        if !info.os_type.is_empty() && info.os_type != "linux" {
            return Err(Error::new(ErrorKind::Unsupported)
                .with_message(format!("the engine runs {} containers", info.os_type)));
        }
        Ok(Self::new(version, api, info))
    }

    fn new(version: Version, api: ApiVersion, info: Info) -> Self {
        let podman = version.components.iter().find(|part| part.name.contains("Podman"));
        let (flavour, name) = match podman {
            Some(part) => (Flavour::Podman, part.name.clone()),
            None => (Flavour::Docker, "Docker Engine".to_owned()),
        };
        let containerd = version.components.iter().find(|part| part.name == "containerd");
        let containerd = containerd.map(|part| version_numbers(&part.version));
        let clock = ClockOffset::default();
        Self { flavour, name, version: version.version, api, info, containerd, clock }
    }

    /// Returns the name and the version in a later response to `/version`.
    pub(crate) fn name_and_version(&self, version: Version) -> (String, String) {
        let now = Self::new(version, self.api, self.info.clone());
        (now.name, now.version)
    }

    /// Returns warnings about the engine's configuration.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.info.warnings.clone().unwrap_or_default();
        if self.info.cgroup_driver == "none" {
            warnings.push("the engine has no cgroups, so limits are not supported".to_owned());
        }
        warnings
    }

    /// Returns the version of the engine as numbers: `20.10.24+dfsg1` is `[20, 10, 24]`.
    pub(crate) fn release(&self) -> [u32; 3] {
        version_numbers(&self.version)
    }

    pub(crate) fn is_podman(&self) -> bool {
        self.flavour == Flavour::Podman
    }

    /// Returns `true` if the engine sets the size of an exec's terminal before the process starts
    /// (`ConsoleSize`). Podman 5.8 has the API version of this parameter, and ignores it.
    pub(crate) fn sets_size_at_start(&self) -> bool {
        !self.is_podman() && self.api >= ApiVersion::new(1, 42)
    }

    /// Returns `true` if log times have nanoseconds. Podman before 5.8 omits the fraction of a second
    /// (containers/podman#27691).
    pub(crate) fn has_exact_log_times(&self) -> bool {
        !self.is_podman() || self.release() >= [5, 8, 0]
    }

    /// Returns `true` if the engine reports a kill by the memory limit. Podman before 5.0 does not
    /// (containers/podman#13102).
    pub(crate) fn reports_out_of_memory(&self) -> bool {
        !self.is_podman() || self.release() >= [5, 0, 0]
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (API {})", self.name, self.version, self.api)
    }
}

/// The response of `/version`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Version {
    version: String,
    api_version: String,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: Option<String>,
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: String,
    #[serde(default)]
    version: String,
}

impl Version {
    pub(crate) fn negotiate(&self) -> Result<ApiVersion> {
        let parse = |text: &str| {
            text.parse::<ApiVersion>().map_err(|source| {
                Error::internal(format!("{text:?} is not an API version")).with_source(source)
            })
        };
        let newest = parse(&self.api_version)?;
        let oldest = match self.min_api_version.as_deref() {
            None | Some("") => newest,
            Some(text) => parse(text)?,
        };
        if newest < ApiVersion::OLDEST || oldest > ApiVersion::NEWEST {
            return Err(Error::new(ErrorKind::Unsupported)
                .with_message(format!(
                    "engine {} supports API versions {oldest} to {newest}, this library {} to {}",
                    self.version,
                    ApiVersion::OLDEST,
                    ApiVersion::NEWEST
                ))
                .during(Operation::Connect));
        }
        Ok(newest.min(ApiVersion::NEWEST))
    }
}

/// The parts of `/info` that capabilities depend on. Fields that an engine omits are false or empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Info {
    pub(crate) memory_limit: bool,
    pub(crate) swap_limit: bool,
    pub(crate) cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares")]
    pub(crate) cpu_shares: bool,
    pub(crate) cgroup_driver: String,
    pub(crate) cgroup_version: String,
    pub(crate) logging_driver: String,
    pub(crate) system_time: String,
    #[serde(rename = "OSType")]
    pub(crate) os_type: String,
    pub(crate) runtimes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(rename = "NCPU")]
    pub(crate) cpus: u32,
    pub(crate) mem_total: u64,
    pub(crate) security_options: Option<Vec<String>>,
    pub(crate) warnings: Option<Vec<String>>,
    pub(crate) live_restore_enabled: bool,
    #[serde(rename = "CDISpecDirs")]
    pub(crate) cdi_spec_dirs: Option<Vec<String>>,
    pub(crate) discovered_devices: Option<Vec<DiscoveredDevice>>,
}

/// A device that the engine discovered (since API 1.50).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DiscoveredDevice {
    pub(crate) source: String,
    #[serde(rename = "ID")]
    pub(crate) id: String,
}

impl Info {
    /// Returns `true` if the NVIDIA runtime is configured.
    pub(crate) fn has_nvidia_runtime(&self) -> bool {
        self.runtimes.contains_key("nvidia")
    }

    /// Returns `true` if the engine has discovered NVIDIA GPUs by CDI.
    pub(crate) fn has_nvidia_cdi(&self) -> bool {
        let devices = self.discovered_devices.as_deref().unwrap_or_default();
        devices
            .iter()
            .any(|device| device.source == "cdi" && device.id.starts_with("nvidia.com/gpu="))
    }
}
