//! Options of a connection.

mod endpoint;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use runtime_core::{Deadlines, Error, Result, Scope};

pub(crate) use self::endpoint::{Endpoint, candidates};

/// How to connect to an engine.
///
/// The engine is found as crictl finds it: [`endpoint`](Self::endpoint), then the variable
/// `CONTAINER_RUNTIME_ENDPOINT`, then `runtime-endpoint` in the file `CRI_CONFIG_FILE` or
/// `/etc/crictl.yaml`, then the default sockets of containerd and CRI-O, of which the first that
/// answers is used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CriOptions {
    /// Ownership containers are made and seen.
    pub scope: Scope,
    /// `unix://PATH` or the path of a socket.
    pub endpoint: Option<String>,
    /// How long the operations may take.
    pub deadlines: Deadlines,
    /// The folder for the log files, which engine and caller must see at the same path. Each
    /// container has a folder of its own in it, which goes away with the container. By default
    /// `/var/log/container-runtime`.
    pub log_dir: PathBuf,
    /// The folder for what goes away with the host's next start: where `/dev/shm` of a container
    /// with a size of its own is mounted. By default `/run/container-runtime`.
    pub state_dir: PathBuf,
    /// When to begin a new log file.
    pub log_rotation: LogRotation,
    /// The name of a runtime handler of the engine's configuration, for example `kata`. The
    /// engine's default where absent.
    pub runtime_handler: Option<String>,
    /// The cgroup under which the engine makes those of the containers, in the form that its
    /// cgroup driver wants. The engine's default where absent.
    pub cgroup_parent: Option<String>,
    /// The ports of this host that may be published. By default 20000 to 29999: below what Linux
    /// takes for outgoing connections, so that no other program is given one by chance.
    pub host_ports: RangeInclusive<u16>,
    /// The kind of CDI device that the ids of GPUs belong to: id `0` is the device `KIND=0`. By
    /// default `nvidia.com/gpu`.
    pub gpu_kind: String,
    /// Whether the engine's own events may tell sooner that something has happened, where the
    /// engine has them. What has happened is always asked for. By default they may.
    pub engine_events: bool,
}

/// When to begin a new log file of a running container. The CRI leaves that to its client.
///
/// Rotated files stay beside the current one, with a number at the end of their names, and are
/// read like it. The files grow without bound where nothing rotates them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogRotation {
    /// Never: something else does it, or it is not wanted.
    Off,
    /// When the current file has more than `max_bytes`, looked at every ten seconds.
    Size {
        /// The size in bytes.
        max_bytes: u64,
        /// How many rotated files to keep, at least 1; the oldest go first. All of them for
        /// `None`. A follower that has not read a file that is thrown away ends with `Lost`.
        keep: Option<u32>,
    },
}

impl Default for LogRotation {
    /// At 64 MiB, and nothing is thrown away.
    fn default() -> Self {
        Self::Size { max_bytes: 64 << 20, keep: None }
    }
}

impl CriOptions {
    /// The engine that crictl would use.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            endpoint: None,
            deadlines: Deadlines::default(),
            log_dir: PathBuf::from("/var/log/container-runtime"),
            state_dir: PathBuf::from("/run/container-runtime"),
            log_rotation: LogRotation::default(),
            runtime_handler: None,
            cgroup_parent: None,
            host_ports: runtime_support::ports::HOST_PORTS,
            gpu_kind: "nvidia.com/gpu".to_owned(),
            engine_events: true,
        }
    }

    /// Connects to this endpoint: `unix://PATH` or the path of a socket.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// Sets how long the operations may take.
    #[must_use]
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Sets the folder for the log files.
    #[must_use]
    pub fn log_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.log_dir = folder.into();
        self
    }

    /// Sets the folder for what goes away with the host's next start.
    #[must_use]
    pub fn state_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state_dir = folder.into();
        self
    }

    /// Sets when to begin a new log file.
    #[must_use]
    pub fn log_rotation(mut self, rotation: LogRotation) -> Self {
        self.log_rotation = rotation;
        self
    }

    /// Uses this runtime handler of the engine's configuration.
    #[must_use]
    pub fn runtime_handler(mut self, handler: impl Into<String>) -> Self {
        self.runtime_handler = Some(handler.into());
        self
    }

    /// Sets the cgroup above those of the containers.
    #[must_use]
    pub fn cgroup_parent(mut self, parent: impl Into<String>) -> Self {
        self.cgroup_parent = Some(parent.into());
        self
    }

    /// Sets the ports of this host that may be published.
    #[must_use]
    pub fn host_ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.host_ports = ports;
        self
    }

    /// Sets the kind of CDI device that the ids of GPUs belong to.
    #[must_use]
    pub fn gpu_kind(mut self, kind: impl Into<String>) -> Self {
        self.gpu_kind = kind.into();
        self
    }

    /// Sets whether the engine's own events may tell sooner that something has happened.
    #[must_use]
    pub fn engine_events(mut self, events: bool) -> Self {
        self.engine_events = events;
        self
    }

    /// Checks what does not depend on the engine.
    pub(crate) fn check(&self) -> Result<()> {
        for (field, folder) in [("log_dir", &self.log_dir), ("state_dir", &self.state_dir)] {
            if !folder.is_absolute() || folder.to_str().is_none() {
                return Err(Error::invalid(
                    field,
                    format!("{} is not an absolute path in UTF-8", folder.display()),
                ));
            }
        }
        if self.host_ports.is_empty() || *self.host_ports.start() == 0 {
            return Err(Error::invalid("host_ports", "is not a range of ports"));
        }
        if let LogRotation::Size { max_bytes: 0, .. } = self.log_rotation {
            return Err(Error::invalid("log_rotation", "max_bytes must be at least 1"));
        }
        if let LogRotation::Size { keep: Some(0), .. } = self.log_rotation {
            return Err(Error::invalid("log_rotation", "keep must be at least 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> CriOptions {
        CriOptions::new(Scope::new("t").unwrap())
    }

    #[test]
    fn wrong_options_are_named() {
        for (options, field) in [
            (options().log_dir("a"), "log_dir"),
            (options().state_dir("a"), "state_dir"),
            (options().host_ports(0..=9), "host_ports"),
            (options().host_ports(RangeInclusive::new(9, 8)), "host_ports"),
            (
                options().log_rotation(LogRotation::Size { max_bytes: 0, keep: None }),
                "log_rotation",
            ),
            (
                options().log_rotation(LogRotation::Size { max_bytes: 1, keep: Some(0) }),
                "log_rotation",
            ),
        ] {
            assert_eq!(options.check().unwrap_err().field(), Some(field));
        }
        options().check().unwrap();
    }
}
