//! What a caller asks for when creating a container.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Image, PullPolicy, Signal};

/// The variable by which the NVIDIA container toolkit chooses GPUs. It is refused in
/// [`ContainerSpec::env`]; a container without GPUs gets it with the value `none`, because an
/// image may set it to `all` and would then see every GPU of the host.
pub const NVIDIA_VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";

/// The OOM score adjustment of a container that asked for no resources, see
/// [`ContainerSpec::oom_score_adj`].
pub const OOM_SCORE_ADJ_EVICTABLE: i32 = 1000;

/// Everything about a container that is to be made. Only the image is required.
///
/// Every field means the same on every engine. A field that an engine cannot honour is refused
/// with [`Unsupported`](crate::ErrorKind::Unsupported), naming it, before anything is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerSpec {
    /// The image.
    pub image: Image,
    /// When to pull the image. Only when it is missing, by default.
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// The name, see [`ContainerName`](crate::ContainerName). One is made up where it is absent.
    #[serde(default)]
    pub name: Option<String>,
    /// The executable and its first arguments, in place of the image's entrypoint. The image's own
    /// arguments then do not count. Absent keeps the image's.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// The arguments, in place of the image's. Absent keeps the image's. None at all for the
    /// entrypoint of the image takes the capability `empty_arguments`.
    #[serde(default)]
    pub arguments: Option<Vec<String>>,
    /// Environment, on top of the image's. Nothing in it is expanded.
    ///
    /// Kubernetes takes names of letters, digits, `-`, `_` and `.` that do not begin with a digit;
    /// others need the capability `env_names`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Names of variables of the image that the container does not get (capability `env_unset`).
    #[serde(default)]
    pub unset_env: BTreeSet<String>,
    /// Labels. Any text without NUL; keys are not empty and do not begin with
    /// [`LABEL_PREFIX`](crate::LABEL_PREFIX).
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Host folders and files to show inside.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Whether the main process has a standard input or a terminal.
    #[serde(default)]
    pub interactive: Interactive,
    /// The hard limit on memory in bytes. Swap is not added to it.
    #[serde(default)]
    pub memory: Option<u64>,
    /// The size of /dev/shm in bytes. Absent means the engine's own, 64 MiB on most.
    #[serde(default)]
    pub shared_memory: Option<u64>,
    /// The hard limit on CPUs: 0.5 is half of one. Not counted where `cpu_shares` is given.
    #[serde(default)]
    pub cpu_count: Option<f64>,
    /// The weight of CPU against other containers, 2 to 262144; one without has 1024. It comes
    /// before `cpu_count`.
    #[serde(default)]
    pub cpu_shares: Option<u64>,
    /// GPUs.
    #[serde(default)]
    pub gpus: Gpus,
    /// The user of the main process: `user` or `user:group`, each a name or a number. Absent
    /// keeps the image's, or root.
    ///
    /// Without a group, the process has the groups that the image's `/etc/passwd` and `/etc/group`
    /// give the user. With `user:group`, Docker and Podman give it this group alone; containerd,
    /// also below Kubernetes, adds the groups of the user in the image's `/etc/group`. A program that
    /// has to have certain groups names them in [`groups`](Self::groups).
    #[serde(default)]
    pub user: Option<String>,
    /// More groups of the main process, names or numbers.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The folder that the command runs in, an absolute path. Absent keeps the image's.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// TCP ports of the container to publish, each on a free port of the host. The host ports are
    /// in [`ContainerInfo::tcp_ports`](crate::ContainerInfo) while it runs.
    #[serde(default)]
    pub tcp_ports: Vec<u16>,
    /// The host name inside, by RFC 1123: labels of letters, digits and `-`, 63 characters in all.
    #[serde(default)]
    pub hostname: Option<String>,
    /// The grace of a stop that gives none. 10 s where absent.
    #[serde(default)]
    pub stop_grace: Option<Duration>,
    /// The stop signal, in place of the image's (SIGTERM where that names none).
    #[serde(default)]
    pub stop_signal: Option<Signal>,
}

/// A host folder or file shown inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Mount {
    /// The absolute path on the host of the engine. It has to be there: nothing is made.
    pub source: PathBuf,
    /// The absolute path inside.
    pub target: String,
    /// Whether it can be written to.
    #[serde(default)]
    pub access: MountAccess,
    /// The kind of the source, if the caller requires one. A source of another kind is refused with
    /// `InvalidArgument` if the files of the engine's host can be seen, and by the node of a cluster
    /// when it starts the container; an engine at the other end of a TCP connection ignores it. On
    /// Kubernetes a create with the kind of each source needs no further pod.
    #[serde(default)]
    pub kind: Option<MountKind>,
}

impl Mount {
    /// A mount that can be written to.
    #[must_use]
    pub fn new(source: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        let access = MountAccess::ReadWrite;
        Self { source: source.into(), target: target.into(), access, kind: None }
    }

    /// A mount that cannot.
    #[must_use]
    pub fn read_only(source: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        Self { access: MountAccess::ReadOnly, ..Self::new(source, target) }
    }

    /// Sets the kind of the source.
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
    /// A named pipe. Kubernetes has no check for it: if nothing is there, the engine of the node
    /// creates a directory.
    Fifo,
}

impl MountKind {
    /// Returns the name of the kind in words.
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

/// Whether a mount can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountAccess {
    /// It can.
    #[default]
    ReadWrite,
    /// It cannot.
    ReadOnly,
}

/// Whether the main process has a standard input or a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interactive {
    /// Neither: it reads end of file. As `docker run` without `-i` and `-t`.
    #[default]
    No,
    /// An open standard input. As `docker run -i`.
    Stdin,
    /// An open standard input on a terminal. As `docker run -it`.
    Terminal,
}

/// GPUs of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gpus {
    /// None.
    #[default]
    None,
    /// These, by id or index (capability `gpus_by_id`).
    Ids(Vec<String>),
    /// So many, whichever they are (capability `gpus_by_count`).
    Count(u32),
}

impl Gpus {
    /// Whether no GPU is asked for.
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
    /// A container of this image, with everything else as the image has it.
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

    /// The OOM score adjustment of the container, -1000 to 1000: how willingly the kernel kills
    /// it when the host's memory runs short.
    ///
    /// A container that asks for no memory, CPU or GPU is *evictable*: it gets 1000, the highest
    /// there is, and dies first. Every other gets 0, the kernel's own default, by which it is
    /// judged by its use of memory alone (`oom_score_adj` in `proc(5)`; 1000 is also what
    /// Kubernetes gives pods of its class BestEffort). It is never below 0, because that takes
    /// the capability `CAP_SYS_RESOURCE`, which an engine need not have.
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
    /// Sets when to pull.
    pull_policy(policy: PullPolicy) |spec, policy| spec.pull_policy = policy;
    /// Sets the hard limit on memory, in bytes.
    memory(bytes: u64) |spec, bytes| spec.memory = Some(bytes);
    /// Sets the size of /dev/shm, in bytes.
    shared_memory(bytes: u64) |spec, bytes| spec.shared_memory = Some(bytes);
    /// Sets the hard limit on CPUs.
    cpu_count(cpus: f64) |spec, cpus| spec.cpu_count = Some(cpus);
    /// Sets the weight of CPU.
    cpu_shares(shares: u64) |spec, shares| spec.cpu_shares = Some(shares);
    /// Sets the GPUs.
    gpus(gpus: Gpus) |spec, gpus| spec.gpus = gpus;
    /// Adds a mount.
    mount(mount: Mount) |spec, mount| spec.mounts.push(mount);
    /// Sets standard input or a terminal.
    interactive(interactive: Interactive) |spec, interactive| spec.interactive = interactive;
    /// Publishes a TCP port of the container.
    tcp_port(port: u16) |spec, port| spec.tcp_ports.push(port);
    /// Sets the grace of a stop.
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

    /// Sets the arguments.
    #[must_use]
    pub fn arguments<I: IntoIterator<Item = S>, S: Into<String>>(mut self, arguments: I) -> Self {
        self.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.unset_env.remove(&name);
        self.env.insert(name, value.into());
        self
    }

    /// Removes a variable, of the image or added before.
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

    /// Adds a group of the process.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.groups.push(group.into());
        self
    }

    /// Sets the folder that the command runs in.
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
