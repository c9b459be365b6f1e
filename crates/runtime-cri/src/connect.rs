//! Where the engine is, and what else a connection needs to know.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use runtime_core::{Deadlines, Error, Result, Scope};
use serde::Deserialize;

/// How to connect to an engine.
///
/// The engine is found as crictl finds it: [`endpoint`](Self::endpoint), then the variable
/// `CONTAINER_RUNTIME_ENDPOINT`, then `runtime-endpoint` in the file `CRI_CONFIG_FILE` or
/// `/etc/crictl.yaml`, then the default sockets of containerd and CRI-O, of which the first that
/// answers is used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CriOptions {
    /// Whose containers are made and seen.
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

    /// The places where the engine may be, in the order in which they are tried.
    pub(crate) fn candidates(&self) -> Result<Vec<Endpoint>> {
        let variable = std::env::var(ENDPOINT_VARIABLE).ok();
        let file = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty());
        let file = file.map_or_else(|| PathBuf::from(DEFAULT_FILE), PathBuf::from);
        self.resolve(variable.as_deref(), &file)
    }

    fn resolve(&self, variable: Option<&str>, file: &Path) -> Result<Vec<Endpoint>> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(vec![Endpoint::parse(endpoint, "endpoint")?]);
        }
        if let Some(endpoint) = variable.filter(|endpoint| !endpoint.is_empty()) {
            return Ok(vec![Endpoint::parse(endpoint, ENDPOINT_VARIABLE)?]);
        }
        if let Some(endpoint) = endpoint_of_file(file)? {
            return Ok(vec![Endpoint::parse(&endpoint, &file.display().to_string())?]);
        }
        Ok(DEFAULT_SOCKETS.map(|path| Endpoint { socket: path.into() }).into())
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

/// The variable of crictl with the endpoint.
const ENDPOINT_VARIABLE: &str = "CONTAINER_RUNTIME_ENDPOINT";
/// The variable of crictl with the path of its configuration file, and the path without it.
const FILE_VARIABLE: &str = "CRI_CONFIG_FILE";
const DEFAULT_FILE: &str = "/etc/crictl.yaml";

/// Returns the endpoint in a configuration file of crictl. A file that does not exist has none.
fn endpoint_of_file(path: &Path) -> Result<Option<String>> {
    #[derive(Default, Deserialize)]
    struct Crictl {
        #[serde(rename = "runtime-endpoint")]
        runtime_endpoint: Option<String>,
    }
    let bad = |why: &str| Error::invalid(path.display().to_string(), why);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(bad("cannot be read").with_source(error)),
    };
    let file: Option<Crictl> = serde_saphyr::from_str(&text).map_err(|error| {
        bad("is not a configuration file of crictl").with_source(std::io::Error::other(error))
    })?;
    Ok(file.unwrap_or_default().runtime_endpoint.filter(|endpoint| !endpoint.is_empty()))
}

/// The sockets of containerd and CRI-O as they come.
const DEFAULT_SOCKETS: [&str; 2] = ["/run/containerd/containerd.sock", "/run/crio/crio.sock"];

/// Where an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) socket: PathBuf,
}

impl Endpoint {
    fn parse(text: &str, field: &str) -> Result<Self> {
        let bad = |why: &str| Err(Error::invalid(field, format!("{text:?} {why}")));
        let path = match text.split_once("://") {
            Some(("unix", path)) => path,
            Some(_) => return bad("is neither unix://PATH nor the path of a socket"),
            None => text,
        };
        if !path.starts_with('/') || path.contains('\0') {
            return bad("names no absolute path");
        }
        Ok(Self { socket: PathBuf::from(path) })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.socket.display())
    }
}

#[cfg(test)]
mod tests {
    use runtime_core::ErrorKind;

    use super::*;

    fn options() -> CriOptions {
        CriOptions::new(Scope::new("t").unwrap())
    }

    fn resolve(options: &CriOptions, variable: Option<&str>) -> Result<Vec<Endpoint>> {
        options.resolve(variable, Path::new("/no/such/file"))
    }

    #[test]
    fn option_variable_file_and_default_sockets_are_used_in_this_order() {
        let named = |path: &str| vec![Endpoint { socket: path.into() }];
        for nothing in [None, Some("")] {
            let defaults = resolve(&options(), nothing).unwrap();
            let paths: Vec<_> = defaults.iter().map(|endpoint| &endpoint.socket).collect();
            assert_eq!(paths, DEFAULT_SOCKETS.map(Path::new));
        }
        assert_eq!(resolve(&options(), Some("unix:///a/b")).unwrap(), named("/a/b"));
        assert_eq!(resolve(&options(), Some("/a/b")).unwrap(), named("/a/b"));
        let both = resolve(&options().endpoint("unix:///c"), Some("/a/b")).unwrap();
        assert_eq!(both, named("/c"));

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("crictl.yaml");
        std::fs::write(&file, "runtime-endpoint: unix:///f\ntimeout: 10\ndebug: false\n").unwrap();
        assert_eq!(options().resolve(None, &file).unwrap(), named("/f"));
        assert_eq!(options().resolve(Some("/a/b"), &file).unwrap(), named("/a/b"));
        assert_eq!(options().endpoint("/c").resolve(None, &file).unwrap(), named("/c"));
    }

    #[test]
    fn configuration_files_of_crictl() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("crictl.yaml");
        let endpoint = |text: &str| {
            std::fs::write(&file, text).unwrap();
            endpoint_of_file(&file)
        };
        for (text, found) in [
            ("", None),
            ("# nothing\n", None),
            ("timeout: 10\n", None),
            ("runtime-endpoint: \"\"\nimage-endpoint: \"\"\n", None),
            ("runtime-endpoint:\n", None),
            ("runtime-endpoint: unix:///a\n", Some("unix:///a")),
            ("runtime-endpoint: \"/a\"\n", Some("/a")),
            ("{\"runtime-endpoint\": \"/a\", \"debug\": true}", Some("/a")),
        ] {
            assert_eq!(endpoint(text).unwrap().as_deref(), found, "{text}");
        }
        for text in ["runtime-endpoint: [", "- a\n", "runtime-endpoint: {a: b}\n"] {
            let error = endpoint(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert_eq!(error.field(), file.to_str());
        }
        std::fs::write(&file, "runtime-endpoint: tcp://h\n").unwrap();
        assert_eq!(options().resolve(None, &file).unwrap_err().field(), file.to_str());
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert_eq!(endpoint_of_file(&file).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn what_is_no_socket_names_where_it_was_said() {
        for bad in ["tcp://127.0.0.1:1", "unix://", "unix://a", "a", "npipe:////x", "/a\0"] {
            let error = resolve(&options(), Some(bad)).unwrap_err();
            assert_eq!(error.field(), Some(ENDPOINT_VARIABLE), "{bad:?}");
            let error = resolve(&options().endpoint(bad), None).unwrap_err();
            assert_eq!(
                (error.kind(), error.field()),
                (ErrorKind::InvalidArgument, Some("endpoint"))
            );
        }
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
