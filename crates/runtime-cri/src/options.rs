//! Options of a connection.

mod endpoint;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use runtime_core::{Deadlines, Error, Result, Scope};

pub(crate) use self::endpoint::{Endpoint, candidates};

/// Options of a connection to an engine.
///
/// The address of the engine is the first of these, as in crictl: [`endpoint`](Self::endpoint), the
/// variable `CONTAINER_RUNTIME_ENDPOINT`, `runtime-endpoint` in the file `CRI_CONFIG_FILE` or
/// `/etc/crictl.yaml`, the default sockets of containerd and CRI-O. The first default socket that
/// responds is used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CriOptions {
    /// Scope of the containers.
    pub scope: Scope,
    /// Address of the engine: `unix://PATH` or the path of a socket.
    pub endpoint: Option<String>,
    /// Deadlines of the operations.
    pub deadlines: Deadlines,
    /// Directory for log files, which must have the same path for the engine and for this process.
    /// Each container has a directory in it, which is removed with the container. By default
    /// `/var/log/container-runtime`.
    pub log_dir: PathBuf,
    /// Directory for files that need not survive a restart of the host, for example the mount point
    /// of a `/dev/shm` with a size. By default `/run/container-runtime`.
    pub state_dir: PathBuf,
    /// Rotation of log files.
    pub log_rotation: LogRotation,
    /// Runtime handler of the engine's configuration, for example `kata`. If absent, the engine's
    /// default.
    pub runtime_handler: Option<String>,
    /// Parent cgroup of the containers, in the form that the engine's cgroup driver requires. If
    /// absent, the engine's default.
    pub cgroup_parent: Option<String>,
    /// Ports of this host that may be published. By default 20000 to 29999, below the range that
    /// Linux uses for outgoing connections, so that the kernel gives none of them to another
    /// program.
    pub host_ports: RangeInclusive<u16>,
    /// Kind of CDI device for the ids of GPUs: id `0` is the device `KIND=0`. By default
    /// `nvidia.com/gpu`.
    pub gpu_kind: String,
    /// Whether events of the engine, if it has them, trigger the list poll early. The poll alone
    /// decides. True by default.
    pub engine_events: bool,
}

/// Rotation of the log files of running containers, which the CRI leaves to its client.
///
/// Rotated files stay beside the current file, with a number at the end of their names, and are
/// part of the log. Without rotation the current file grows without bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogRotation {
    /// No rotation by this library.
    Off,
    /// Rotation of a current file of more than `max_bytes`, checked every ten seconds.
    Size {
        /// Size in bytes.
        max_bytes: u64,
        /// Number of rotated files to keep, at least 1; the oldest are removed first. `None` keeps
        /// all. A follower that has not read a removed file ends with `Lost`.
        keep: Option<u32>,
    },
}

impl Default for LogRotation {
    /// Returns rotation at 64 MiB that removes no files.
    fn default() -> Self {
        Self::Size { max_bytes: 64 << 20, keep: None }
    }
}

impl CriOptions {
    /// Returns options for the engine that crictl would use.
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

    /// Sets the address of the engine: `unix://PATH` or the path of a socket.
    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// Sets the deadlines of the operations.
    #[must_use]
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Sets the directory for log files.
    #[must_use]
    pub fn log_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.log_dir = directory.into();
        self
    }

    /// Sets the directory for files that need not survive a restart of the host.
    #[must_use]
    pub fn state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_dir = directory.into();
        self
    }

    /// Sets the rotation of log files.
    #[must_use]
    pub fn log_rotation(mut self, rotation: LogRotation) -> Self {
        self.log_rotation = rotation;
        self
    }

    /// Sets the runtime handler.
    #[must_use]
    pub fn runtime_handler(mut self, handler: impl Into<String>) -> Self {
        self.runtime_handler = Some(handler.into());
        self
    }

    /// Sets the parent cgroup of the containers.
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

    /// Sets the kind of CDI device for the ids of GPUs.
    #[must_use]
    pub fn gpu_kind(mut self, kind: impl Into<String>) -> Self {
        self.gpu_kind = kind.into();
        self
    }

    /// Sets whether events of the engine trigger the list poll early.
    #[must_use]
    pub fn engine_events(mut self, events: bool) -> Self {
        self.engine_events = events;
        self
    }

    /// Checks the options that do not depend on the engine.
    pub(crate) fn check(&self) -> Result<()> {
        for (field, directory) in [("log_dir", &self.log_dir), ("state_dir", &self.state_dir)] {
            if !directory.is_absolute() || directory.to_str().is_none() {
                return Err(Error::invalid(
                    field,
                    format!("{} is not an absolute path in UTF-8", directory.display()),
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
    fn check_invalid_option_names_the_field() {
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
