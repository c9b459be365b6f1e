//! Specification of a container.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Image, PullPolicy, Signal};

/// Environment variable that selects GPUs for the NVIDIA container toolkit.
///
/// The variable is refused in [`ContainerSpec::env`]. For a container without GPUs it is set to
/// `none`, because an image may set it to `all` and would then have access to every GPU of the
/// host.
pub const NVIDIA_VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";

/// OOM score adjustment of a container that requests no resources, see
/// [`ContainerSpec::oom_score_adj`].
pub const OOM_SCORE_ADJ_EVICTABLE: i32 = 1000;

/// Specification of a container to create. Only the image is required.
///
/// Every field has the same meaning on every engine. A field that an engine does not support is
/// refused with [`Unsupported`](crate::ErrorKind::Unsupported), naming the field, before anything
/// is created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerSpec {
    /// Image of the container.
    pub image: Image,
    /// Pull policy. The default is [`PullPolicy::Missing`].
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// Name, see [`ContainerName`](crate::ContainerName). A unique name is generated if absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Executable and its first arguments, in place of the image's entrypoint. The image's own
    /// arguments are then ignored. If absent, the image's entrypoint is used.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Arguments, in place of the image's. If absent, the image's arguments are used. An empty list
    /// with the image's entrypoint requires the capability `empty_arguments`.
    #[serde(default)]
    pub arguments: Option<Vec<String>>,
    /// Environment variables, added to those of the image. Values are not expanded.
    ///
    /// Kubernetes accepts names of letters, digits, `-`, `_` and `.` that do not begin with a
    /// digit; other names require the capability `env_names`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables of the image that are removed (capability `env_unset`).
    #[serde(default)]
    pub unset_env: BTreeSet<String>,
    /// Labels. Keys and values are any text without NUL; keys must not be empty or begin with
    /// [`LABEL_PREFIX`](crate::LABEL_PREFIX).
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Directories and files of the host to mount.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Stdin or a terminal for the main process.
    #[serde(default)]
    pub interactive: Interactive,
    /// Memory limit in bytes. No swap is granted in addition.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Size of /dev/shm in bytes. If absent, the engine's default, 64 MiB on most engines.
    #[serde(default)]
    pub shared_memory: Option<u64>,
    /// CPU limit in CPUs: 0.5 is half a CPU. Ignored if `cpu_shares` is set.
    #[serde(default)]
    pub cpu_count: Option<f64>,
    /// CPU weight relative to other containers, 2 to 262144; the default weight is 1024. Takes
    /// precedence over `cpu_count`.
    #[serde(default)]
    pub cpu_shares: Option<u64>,
    /// GPUs of the container.
    #[serde(default)]
    pub gpus: Gpus,
    /// User of the main process: `user` or `user:group`, each a name or a number. If absent, the
    /// image's user, or root.
    ///
    /// Without a group, the process has the groups that the image's `/etc/passwd` and `/etc/group`
    /// assign to the user. With `user:group`, Docker and Podman assign only this group; containerd,
    /// also under Kubernetes, adds the groups of the user in the image's `/etc/group`. A program
    /// that requires certain groups lists them in [`groups`](Self::groups).
    #[serde(default)]
    pub user: Option<String>,
    /// Supplementary groups of the main process, as names or numbers.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Working directory of the command, an absolute path. If absent, the image's.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// TCP ports of the container to publish, each on a free port of the host. While the container
    /// runs, the host ports are in [`ContainerInfo::tcp_ports`](crate::ContainerInfo).
    #[serde(default)]
    pub tcp_ports: Vec<u16>,
    /// Host name of the container, as in RFC 1123: labels of letters, digits and `-`, at most 63
    /// characters in total.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Default grace period of a stop. 10 s if absent.
    #[serde(default)]
    pub stop_grace: Option<Duration>,
    /// Stop signal, in place of the image's. If both are absent, SIGTERM.
    #[serde(default)]
    pub stop_signal: Option<Signal>,
}

/// A directory or file of the host that is mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Mount {
    /// Absolute path on the engine's host. The path must exist; nothing is created.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
    /// Access mode of the mount.
    #[serde(default)]
    pub access: MountAccess,
    /// Required kind of the source. A source of another kind is refused with `InvalidArgument` if
    /// the files of the engine's host can be inspected, and by the node of a cluster at the start
    /// of the container; an engine at the other end of a TCP connection ignores this field. On
    /// Kubernetes, a create that gives the kind of every source needs no additional pod.
    #[serde(default)]
    pub kind: Option<MountKind>,
}

impl Mount {
    /// Creates a read-write mount.
    #[must_use]
    pub fn new(source: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        let access = MountAccess::ReadWrite;
        Self { source: source.into(), target: target.into(), access, kind: None }
    }

    /// Creates a read-only mount.
    #[must_use]
    pub fn read_only(source: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        Self { access: MountAccess::ReadOnly, ..Self::new(source, target) }
    }

    /// Sets the required kind of the source.
    #[must_use]
    pub fn kind(mut self, kind: MountKind) -> Self {
        self.kind = Some(kind);
        self
    }
}

/// Kind of the source of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MountKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A Unix domain socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe. Kubernetes has no check for this kind: if the source is missing, the node's
    /// engine creates a directory.
    Fifo,
}

impl MountKind {
    /// Returns the name of the kind in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File => "file",
            Self::Socket => "socket",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "FIFO",
        }
    }
}

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Access mode of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountAccess {
    /// The container can write to the mount.
    #[default]
    ReadWrite,
    /// The container cannot write to the mount.
    ReadOnly,
}

/// Stdin or a terminal for the main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interactive {
    /// Neither: the process reads end of file from stdin. Like `docker run` without `-i` and `-t`.
    #[default]
    No,
    /// An open stdin. Like `docker run -i`.
    Stdin,
    /// An open stdin on a terminal. Like `docker run -it`.
    Terminal,
}

/// GPUs of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gpus {
    /// No GPUs.
    #[default]
    None,
    /// The GPUs with these ids or indices (capability `gpus_by_id`).
    Ids(Vec<String>),
    /// This number of GPUs, chosen by the engine (capability `gpus_by_count`).
    Count(u32),
}

impl Gpus {
    /// Returns `true` if no GPU is requested.
    #[must_use]
    pub fn is_none(&self) -> bool {
        match self {
            Self::None | Self::Count(0) => true,
            Self::Ids(ids) => ids.is_empty(),
            Self::Count(_) => false,
        }
    }
}

impl ContainerSpec {
    /// Creates a spec for `image` with all other fields at their defaults.
    #[must_use]
    pub fn new(image: impl Into<Image>) -> Self {
        Self {
            image: image.into(),
            pull_policy: PullPolicy::default(),
            name: None,
            command: None,
            arguments: None,
            env: BTreeMap::new(),
            unset_env: BTreeSet::new(),
            labels: BTreeMap::new(),
            mounts: Vec::new(),
            interactive: Interactive::No,
            memory: None,
            shared_memory: None,
            cpu_count: None,
            cpu_shares: None,
            gpus: Gpus::None,
            user: None,
            groups: Vec::new(),
            working_dir: None,
            tcp_ports: Vec::new(),
            hostname: None,
            stop_grace: None,
            stop_signal: None,
        }
    }

    /// Returns the OOM score adjustment of the container, -1000 to 1000. The kernel prefers to kill
    /// processes with a higher value when the host runs out of memory.
    ///
    /// A container that requests no memory, CPU or GPU is *evictable*: its value is 1000, the
    /// maximum, and it is killed first. All other containers have 0, the kernel's default, and are
    /// ranked by their memory use alone (`oom_score_adj` in `proc(5)`; Kubernetes also assigns 1000
    /// to pods of class BestEffort). The value is never negative, because that requires
    /// `CAP_SYS_RESOURCE`, which an engine may lack.
    #[must_use]
    pub fn oom_score_adj(&self) -> i32 {
        let asks = self.memory.is_some()
            || self.cpu_count.is_some()
            || self.cpu_shares.is_some()
            || !self.gpus.is_none();
        if asks { 0 } else { OOM_SCORE_ADJ_EVICTABLE }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) $body:expr;)*) => {
        impl ContainerSpec {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $($arg: $ty),*) -> Self {
                let set: fn(&mut Self, $($ty),*) = $body;
                set(&mut self, $($arg),*);
                self
            })*
        }
    };
}

setters! {
    /// Sets the pull policy.
    pull_policy(policy: PullPolicy) |spec, policy| spec.pull_policy = policy;
    /// Sets the memory limit in bytes.
    memory(bytes: u64) |spec, bytes| spec.memory = Some(bytes);
    /// Sets the size of /dev/shm in bytes.
    shared_memory(bytes: u64) |spec, bytes| spec.shared_memory = Some(bytes);
    /// Sets the CPU limit in CPUs.
    cpu_count(cpus: f64) |spec, cpus| spec.cpu_count = Some(cpus);
    /// Sets the CPU weight.
    cpu_shares(shares: u64) |spec, shares| spec.cpu_shares = Some(shares);
    /// Sets the GPUs.
    gpus(gpus: Gpus) |spec, gpus| spec.gpus = gpus;
    /// Adds a mount.
    mount(mount: Mount) |spec, mount| spec.mounts.push(mount);
    /// Sets standard input or a terminal.
    interactive(interactive: Interactive) |spec, interactive| spec.interactive = interactive;
    /// Publishes a TCP port of the container.
    tcp_port(port: u16) |spec, port| spec.tcp_ports.push(port);
    /// Sets the default grace period of a stop.
    stop_grace(grace: Duration) |spec, grace| spec.stop_grace = Some(grace);
    /// Sets the stop signal.
    stop_signal(signal: Signal) |spec, signal| spec.stop_signal = Some(signal);
}

impl ContainerSpec {
    /// Sets the name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the command, in place of the image's entrypoint.
    #[must_use]
    pub fn command<I: IntoIterator<Item = S>, S: Into<String>>(mut self, command: I) -> Self {
        self.command = Some(command.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the arguments, in place of the image's.
    #[must_use]
    pub fn arguments<I: IntoIterator<Item = S>, S: Into<String>>(mut self, arguments: I) -> Self {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.unset_env.remove(&name);
        self.env.insert(name, value.into());
        self
    }

    /// Removes a variable that the image has or that was added before.
    #[must_use]
    pub fn unset_env(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.env.remove(&name);
        self.unset_env.insert(name);
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Adds a supplementary group.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.groups.push(group.into());
        self
    }

    /// Sets the working directory of the command.
    #[must_use]
    pub fn working_dir(mut self, dir: impl Into<String>) -> Self {
        self.working_dir = Some(dir.into());
        self
    }

    /// Sets the host name.
    #[must_use]
    pub fn hostname(mut self, hostname: impl Into<String>) -> Self {
        self.hostname = Some(hostname.into());
        self
    }
}
