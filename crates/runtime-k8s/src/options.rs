//! How to connect, and what only Kubernetes knows.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use runtime_core::{Deadlines, Error, Result, Scope};

/// How often sessions are pinged, unless the options say otherwise.
pub(crate) const SESSION_PING_INTERVAL: Duration = Duration::from_secs(5);

/// How to connect to a cluster, and how pods are made there.
///
/// What is common to all engines is in [`ContainerSpec`](runtime_core::ContainerSpec); here stands
/// what only Kubernetes has. It holds for every container of the runtime.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KubernetesOptions {
    /// Whose containers are made and seen.
    pub scope: Scope,
    /// How long the operations may take.
    pub deadlines: Deadlines,
    /// The kubeconfig file. `None` looks where kubectl does: the files of `KUBECONFIG`, then
    /// `~/.kube/config`, then the service account of the pod that this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. `None` is its current one.
    pub context: Option<String>,
    /// The namespace. `None` is that of the context, or of the service account.
    pub namespace: Option<String>,
    /// The one node that all containers run on. `None` leaves it to the scheduler.
    pub node: Option<String>,
    /// The container engine of that node, where this program runs on the node itself:
    /// `unix://PATH` or the path of its socket. Logs, stats, stops and signals then go to it and
    /// not through the API server. `None` leaves them to the API server.
    #[cfg(feature = "cri")]
    pub node_engine: Option<String>,
    /// Where the node's `/var/log/pods` is seen from here, with `node_engine`. It is there, unless
    /// this program runs in a container.
    #[cfg(feature = "cri")]
    pub node_logs: PathBuf,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    pub tolerations: Vec<Toleration>,
    /// The service account of the pods. Its token is not mounted in any case.
    pub service_account: Option<String>,
    /// The priority class of the pods.
    pub priority_class: Option<String>,
    /// The runtime class of the pods.
    pub runtime_class: Option<String>,
    /// More annotations for the pods.
    pub annotations: BTreeMap<String, String>,
    /// Secrets with registry logins that are in the namespace already, by name.
    pub image_pull_secrets: Vec<String>,
    /// Whether running containers may be evicted on purpose, as by a drain of their node.
    pub eviction: VoluntaryEviction,
    /// What becomes of `cpu_shares`, for which Kubernetes has no field.
    pub cpu_shares: CpuShares,
    /// Where the stats come from.
    pub stats: StatsSource,
    /// The resource that `gpus` by number counts, for example `nvidia.com/gpu`. Without it the
    /// capability is false: a role in a namespace cannot see what the nodes have.
    pub gpu_resource: Option<String>,
    /// Where on the nodes published ports are looked for. 20000 to 29999: below what nodes take for
    /// services of type NodePort, and below what Linux takes for outgoing connections.
    pub host_ports: RangeInclusive<u16>,
    /// What the sources of mounts are.
    pub mount_sources: MountSources,
    /// How containers are stopped.
    pub stop_method: StopMethod,
    /// Whether the cluster has the alpha feature `ContainerStopSignals`, on its servers and its
    /// nodes, and the nodes' engines honour it. Without it the capability is false, because a server
    /// that accepts the field proves none of that. A server that drops the field fails the create.
    pub stop_signals: bool,
    /// How long a node may fail to pull an image before that is the end. 1 min.
    ///
    /// This budget and the next three are evaluated by every operation that waits for a container:
    /// start, wait, followed logs, attach, exec and events. They count from times that the cluster
    /// has recorded, and are not begun anew by another process. The clocks of the hosts are expected
    /// to agree.
    ///
    /// Less than 30 s can end what would have run: the first attempt of a node may come before the
    /// cluster lets it read the login of the image, and goes without it (the node authorizer can
    /// learn of a pod after the node; the kubelet's log on 1.20 had "no relationship found" 53 times
    /// after one conformance run). The kubelet tries again after a pause of at least 10 s.
    pub pull_budget: Duration,
    /// How long a pod may find no node before that is the end, counted from its start. 5 min. A queue
    /// that holds pods by gates of its own needs more.
    pub schedule_budget: Duration,
    /// How long a node may fail to make a container of a pulled image before that is the end,
    /// counted from the first failure. 1 min.
    pub start_budget: Duration,
    /// How long the node of a running container may be silent, counted from when the cluster says
    /// that it is, before the container is lost with it. 5 min: as long as a cluster waits, unless
    /// told otherwise, before it gives such a node's pods up by itself. A node that is back before
    /// that changes nothing.
    pub node_budget: Duration,
    /// How often sessions are pinged. 5 s. Tests have no time for that.
    #[doc(hidden)]
    pub session_pings: Duration,
}

/// A taint of nodes that is tolerated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Toleration {
    /// The key of the taint. `None` tolerates all keys.
    pub key: Option<String>,
    /// The value of the taint. `None` tolerates all values.
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`. `None` tolerates all effects.
    pub effect: Option<String>,
    /// For how many seconds `NoExecute` is tolerated. `None` is for ever.
    pub seconds: Option<u32>,
}

impl Toleration {
    /// Tolerates every taint with this key.
    #[must_use]
    pub fn key(key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// Only with this value.
    #[must_use]
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Only with this effect.
    #[must_use]
    pub fn effect(mut self, effect: impl Into<String>) -> Self {
        self.effect = Some(effect.into());
        self
    }

    /// Only for so long, where the effect is `NoExecute`.
    #[must_use]
    pub const fn seconds(mut self, seconds: u32) -> Self {
        self.seconds = Some(seconds);
        self
    }
}

/// Whether containers may be evicted on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VoluntaryEviction {
    /// They may, as any pod.
    #[default]
    Allowed,
    /// Each gets a PodDisruptionBudget that forbids it while it runs.
    Refused,
}

/// What becomes of `cpu_shares`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuShares {
    /// They are refused: the capability is false.
    #[default]
    Refused,
    /// They become a CPU request: 1024 shares are one CPU that the scheduler sets aside, and the
    /// node gives the container that weight.
    AsRequest,
}

/// Where stats come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StatsSource {
    /// The metrics API, where the cluster has it: CPU and memory, every 15 s or so.
    #[default]
    MetricsApi,
    /// The kubelets, through the API server's proxy: network and block devices too. It takes the
    /// right to `nodes/proxy`, which is close to the right to run commands in any container.
    NodeProxy,
    /// Nowhere.
    None,
}

/// What the sources of mounts are, and how it is made sure that they are there.
///
/// A node makes an empty folder of a source that is not there, unless it is told what has to be
/// there: a folder, or a file. The spec does not say which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MountSources {
    /// Of any kind. If a mount does not say the kind of its source, the create first runs one more pod
    /// that has all such sources as volumes and runs no process, which takes about two seconds and a
    /// node. It is removed before the container's pod is created. A FIFO is found out by nodes from
    /// version 1.31 or so on.
    #[default]
    Any,
    /// Directories, unless a mount says otherwise. The node checks that when it mounts them.
    Folders,
    /// Files, unless a mount says otherwise. The node checks that when it mounts them.
    Files,
    /// Of any kind. If a mount does not say its kind, the node creates a directory where nothing is.
    Unchecked,
}

/// How a container is stopped, so that its pod, its exit code and its logs stay.
///
/// The API has no call for that: a deletion takes the pod and its logs. Each of the two changes of a
/// running pod that end it may be forbidden by an admission policy of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StopMethod {
    /// [`Image`](Self::Image), and [`Deadline`](Self::Deadline) if a policy refuses that and the
    /// server is new enough. The connection remembers which one works.
    #[default]
    Automatic,
    /// The image is replaced by a reference that no image can have. It works on all versions, and
    /// takes the grace of the container.
    Image,
    /// The pod gets a deadline that has passed. It takes about a second more, and keeps the exit code
    /// on servers from 1.27 on: `connect` refuses it on others.
    Deadline,
}

impl KubernetesOptions {
    /// The cluster that kubectl would speak to, for one scope.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            deadlines: Deadlines::default(),
            kubeconfig: None,
            context: None,
            namespace: None,
            node: None,
            #[cfg(feature = "cri")]
            node_engine: None,
            #[cfg(feature = "cri")]
            node_logs: PathBuf::from("/var/log/pods"),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            service_account: None,
            priority_class: None,
            runtime_class: None,
            annotations: BTreeMap::new(),
            image_pull_secrets: Vec::new(),
            eviction: VoluntaryEviction::default(),
            cpu_shares: CpuShares::default(),
            stats: StatsSource::default(),
            gpu_resource: None,
            host_ports: runtime_support::ports::HOST_PORTS,
            mount_sources: MountSources::default(),
            stop_method: StopMethod::default(),
            stop_signals: false,
            pull_budget: Duration::from_secs(60),
            schedule_budget: Duration::from_secs(300),
            start_budget: Duration::from_secs(60),
            node_budget: Duration::from_secs(300),
            session_pings: SESSION_PING_INTERVAL,
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) $body:expr;)*) => {
        impl KubernetesOptions {
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
    /// Sets how long the operations may take.
    deadlines(deadlines: Deadlines) |o, deadlines| o.deadlines = deadlines;
    /// Adds a toleration.
    toleration(toleration: Toleration) |o, toleration| o.tolerations.push(toleration);
    /// Sets whether containers may be evicted on purpose.
    eviction(eviction: VoluntaryEviction) |o, eviction| o.eviction = eviction;
    /// Sets what becomes of `cpu_shares`.
    cpu_shares(shares: CpuShares) |o, shares| o.cpu_shares = shares;
    /// Sets where stats come from.
    stats(stats: StatsSource) |o, stats| o.stats = stats;
    /// Sets where published ports are looked for.
    host_ports(ports: RangeInclusive<u16>) |o, ports| o.host_ports = ports;
    /// Sets what the sources of mounts are.
    mount_sources(sources: MountSources) |o, sources| o.mount_sources = sources;
    /// Sets how containers are stopped.
    stop_method(method: StopMethod) |o, method| o.stop_method = method;
    /// Sets whether the cluster has the alpha feature `ContainerStopSignals`.
    stop_signals(has: bool) |o, has| o.stop_signals = has;
    /// Sets how long a node may fail to pull an image.
    pull_budget(budget: Duration) |o, budget| o.pull_budget = budget;
    /// Sets how long a pod may find no node.
    schedule_budget(budget: Duration) |o, budget| o.schedule_budget = budget;
    /// Sets how long a node may fail to make a container.
    start_budget(budget: Duration) |o, budget| o.start_budget = budget;
    /// Sets how long the node of a running container may be silent.
    node_budget(budget: Duration) |o, budget| o.node_budget = budget;
    #[doc(hidden)]
    session_pings(interval: Duration) |o, interval| o.session_pings = interval;
}

macro_rules! text_setters {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        impl KubernetesOptions {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $name: impl Into<String>) -> Self {
                self.$name = Some($name.into());
                self
            })*
        }
    };
}

text_setters! {
    /// Chooses a context of the kubeconfig.
    context;
    /// Sets the namespace.
    namespace;
    /// Binds all containers to one node.
    node;
    /// Sets the service account of the pods.
    service_account;
    /// Sets the priority class of the pods.
    priority_class;
    /// Sets the runtime class of the pods.
    runtime_class;
    /// Sets the container engine of the one node, on which this program runs too.
    #[cfg(feature = "cri")]
    node_engine;
}

impl KubernetesOptions {
    /// Sets the kubeconfig file.
    #[must_use]
    pub fn kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.kubeconfig = Some(path.into());
        self
    }

    /// Sets where the node's `/var/log/pods` is seen from here.
    #[cfg(feature = "cri")]
    #[must_use]
    pub fn node_logs(mut self, folder: impl Into<PathBuf>) -> Self {
        self.node_logs = folder.into();
        self
    }

    /// Wants this label of a node.
    #[must_use]
    pub fn node_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.node_selector.insert(key.into(), value.into());
        self
    }

    /// Adds an annotation to the pods.
    #[must_use]
    pub fn annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Adds a Secret with a registry login that is in the namespace already.
    #[must_use]
    pub fn image_pull_secret(mut self, name: impl Into<String>) -> Self {
        self.image_pull_secrets.push(name.into());
        self
    }

    /// Sets the resource that `gpus` by number counts.
    #[must_use]
    pub fn gpu_resource(mut self, resource: impl Into<String>) -> Self {
        self.gpu_resource = Some(resource.into());
        self
    }

    /// Returns these options with each time that is longer than ten years cut to that.
    pub(crate) fn bounded(mut self) -> Self {
        self.deadlines = self.deadlines.bounded();
        for budget in [
            &mut self.pull_budget,
            &mut self.schedule_budget,
            &mut self.start_budget,
            &mut self.node_budget,
            &mut self.session_pings,
        ] {
            *budget = runtime_core::bounded(*budget);
        }
        self
    }

    /// Checks what can be checked without a cluster.
    pub(crate) fn check(&self) -> Result<()> {
        #[cfg(feature = "cri")]
        if self.node_engine.is_some() && self.node.is_none() {
            return Err(Error::invalid("node_engine", "is an engine of no node: set the node too"));
        }
        if self.host_ports.is_empty() || *self.host_ports.start() == 0 {
            return Err(Error::invalid("host_ports", "is no range of ports"));
        }
        for key in self.annotations.keys() {
            if key.starts_with(runtime_core::LABEL_PREFIX) {
                return Err(Error::invalid("annotations", format!("{key} is reserved")));
            }
        }
        Ok(())
    }
}
