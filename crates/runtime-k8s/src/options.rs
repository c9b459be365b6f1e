//! Options of a connection.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use runtime_core::{Deadlines, Error, Result, Scope};

/// Default interval of the pings of sessions.
pub(crate) const SESSION_PING_INTERVAL: Duration = Duration::from_secs(5);

/// Options of a connection to a cluster, and of the pods that it creates.
///
/// [`ContainerSpec`](runtime_core::ContainerSpec) has the options that all engines share. These are
/// specific to Kubernetes, and apply to every container of the runtime.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KubernetesOptions {
    /// Scope of the containers that are created and listed.
    pub scope: Scope,
    /// Deadlines of the operations.
    pub deadlines: Deadlines,
    /// The kubeconfig file. `None` uses the files that kubectl uses: those of `KUBECONFIG`, then
    /// `~/.kube/config`, then the service account of the pod that this program runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. `None` is its current one.
    pub context: Option<String>,
    /// The namespace. `None` is that of the context, or of the service account.
    pub namespace: Option<String>,
    /// The one node that all containers run on. `None` leaves it to the scheduler.
    pub node: Option<String>,
    /// The container engine of that node, if this program runs on the node: `unix://PATH` or the
    /// path of its socket. Logs, stats, stops and signals then use the engine. With `None` they use
    /// the API server.
    #[cfg(feature = "cri")]
    pub node_engine: Option<String>,
    /// Path of the node's `/var/log/pods` in the mount namespace of this program, with
    /// `node_engine`. It differs if this program runs in a container.
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
    /// Whether the cluster may evict running containers, for example to drain a node.
    pub eviction: VoluntaryEviction,
    /// Handling of `cpu_shares`, for which Kubernetes has no field.
    pub cpu_shares: CpuShares,
    /// Source of statistics.
    pub stats: StatsSource,
    /// The resource that `gpus` by number counts, for example `nvidia.com/gpu`. Without it the
    /// capability is false: a role in a namespace cannot read the capacity of the nodes.
    pub gpu_resource: Option<String>,
    /// Host ports on the nodes that published ports are chosen from. 20000 to 29999: below the
    /// range of services of type NodePort, and below the ephemeral ports of Linux.
    pub host_ports: RangeInclusive<u16>,
    /// Handling of mounts without a kind.
    pub mount_sources: MountSources,
    /// How containers are stopped.
    pub stop_method: StopMethod,
    /// Whether the cluster has the alpha feature `ContainerStopSignals`, on its servers and its
    /// nodes, and the nodes' engines honour it. Without it the capability is false, because a server
    /// that accepts the field proves none of that. A server that drops the field fails the create.
    pub stop_signals: bool,
    /// How long a node may fail to pull an image before the container fails. 1 min.
    ///
    /// This budget and the next three are evaluated by every operation that waits for a container:
    /// start, wait, followed logs, attach, exec and events. They count from times that the cluster
    /// has recorded, so that another process does not restart them. The clocks of the hosts are
    /// expected to agree.
    ///
    /// Less than 30 s can end a container that would have run: the first attempt of a node may
    /// precede its right to read the login of the image, and the pull is then without the login
    /// (the node authorizer can observe a pod after the node; the kubelet's log on 1.20 had "no
    /// relationship found" 53 times after one conformance run). The kubelet tries again after a
    /// pause of at least 10 s.
    pub pull_budget: Duration,
    /// How long a pod may have no node before the container fails, counted from its start. 5 min. A
    /// queue that gates pods itself needs more.
    pub schedule_budget: Duration,
    /// How long a node may fail to create a container from a pulled image before the container
    /// fails, counted from the first failure. 1 min.
    pub start_budget: Duration,
    /// How long the node of a running container may be silent before the container is lost, counted
    /// from the time at which the cluster reports the silence. 5 min, which is also the default
    /// time after which a cluster evicts the pods of such a node. A node that is back earlier
    /// changes nothing.
    pub node_budget: Duration,
    /// Interval of the pings of sessions. 5 s; tests use less.
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
    /// For how many seconds `NoExecute` is tolerated. `None` is without limit.
    pub seconds: Option<u32>,
}

impl Toleration {
    /// Tolerates every taint with this key.
    #[must_use]
    pub fn key(key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// Restricts the toleration to this value.
    #[must_use]
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Restricts the toleration to this effect.
    #[must_use]
    pub fn effect(mut self, effect: impl Into<String>) -> Self {
        self.effect = Some(effect.into());
        self
    }

    /// Restricts the toleration to this time, if the effect is `NoExecute`.
    #[must_use]
    pub const fn seconds(mut self, seconds: u32) -> Self {
        self.seconds = Some(seconds);
        self
    }
}

/// Policy for voluntary evictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VoluntaryEviction {
    /// Containers may be evicted, like any pod.
    #[default]
    Allowed,
    /// Each container gets a PodDisruptionBudget that forbids its eviction.
    Refused,
}

/// Handling of `cpu_shares`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuShares {
    /// Shares are refused: the capability is false.
    #[default]
    Refused,
    /// Shares become a CPU request: for 1024 shares the scheduler reserves one CPU, and the
    /// container gets that weight on the node.
    AsRequest,
}

/// Source of statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StatsSource {
    /// The metrics API, if the cluster has it: CPU and memory, about every 15 s.
    #[default]
    MetricsApi,
    /// The kubelets, through the API server's proxy: network and block devices too. This requires
    /// the right to `nodes/proxy`, which is close to the right to run commands in any container.
    NodeProxy,
    /// No statistics.
    None,
}

/// Handling of mounts without a kind, and the check that their sources exist.
///
/// A node creates an empty directory in place of a missing source, unless the volume has a kind: a
/// directory, or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MountSources {
    /// Sources may be of any kind. If a mount has no kind, the create first creates one more pod
    /// that has all such sources as volumes and runs no process, which takes about two seconds and
    /// a node. It is removed before the container's pod is created. Nodes recognize a FIFO from
    /// about version 1.31 on.
    #[default]
    Any,
    /// Sources are directories, unless a mount has another kind. The node checks that when it
    /// mounts them.
    Folders,
    /// Sources are files, unless a mount has another kind. The node checks that when it mounts
    /// them.
    Files,
    /// Sources may be of any kind. If a mount has no kind, the node creates a directory in place of
    /// a missing source.
    Unchecked,
}

/// Method that stops a container and keeps its pod, its exit code and its logs.
///
/// The API has no call for that: a deletion removes the pod and its logs. An admission policy of
/// the cluster may forbid either of the two changes that end a running pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum StopMethod {
    /// [`Image`](Self::Image), or [`Deadline`](Self::Deadline) if a policy refuses that and the
    /// server is new enough. The connection remembers the method that works.
    #[default]
    Automatic,
    /// The image is replaced by an invalid reference. This works on all versions, and uses the
    /// grace of the container.
    Image,
    /// The pod gets a deadline that has passed. This takes about a second more, and keeps the exit
    /// code on servers from 1.27 on: `connect` refuses it on others.
    Deadline,
}

impl KubernetesOptions {
    /// Returns options for the cluster that kubectl would use, and for one scope.
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
    /// Sets the deadlines of the operations.
    deadlines(deadlines: Deadlines) |o, deadlines| o.deadlines = deadlines;
    /// Adds a toleration.
    toleration(toleration: Toleration) |o, toleration| o.tolerations.push(toleration);
    /// Sets the policy for voluntary evictions.
    eviction(eviction: VoluntaryEviction) |o, eviction| o.eviction = eviction;
    /// Sets the handling of `cpu_shares`.
    cpu_shares(shares: CpuShares) |o, shares| o.cpu_shares = shares;
    /// Sets the source of statistics.
    stats(stats: StatsSource) |o, stats| o.stats = stats;
    /// Sets the host ports that published ports are chosen from.
    host_ports(ports: RangeInclusive<u16>) |o, ports| o.host_ports = ports;
    /// Sets the handling of mounts without a kind.
    mount_sources(sources: MountSources) |o, sources| o.mount_sources = sources;
    /// Sets the method that stops containers.
    stop_method(method: StopMethod) |o, method| o.stop_method = method;
    /// Sets whether the cluster has the alpha feature `ContainerStopSignals`.
    stop_signals(has: bool) |o, has| o.stop_signals = has;
    /// Sets how long a node may fail to pull an image.
    pull_budget(budget: Duration) |o, budget| o.pull_budget = budget;
    /// Sets how long a pod may have no node.
    schedule_budget(budget: Duration) |o, budget| o.schedule_budget = budget;
    /// Sets how long a node may fail to create a container.
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
    /// Sets the container engine of the node that this program runs on.
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

    /// Sets the path of the node's `/var/log/pods` in the mount namespace of this program.
    #[cfg(feature = "cri")]
    #[must_use]
    pub fn node_logs(mut self, folder: impl Into<PathBuf>) -> Self {
        self.node_logs = folder.into();
        self
    }

    /// Requires a label of the nodes.
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

    /// Returns these options with each time limited to ten years.
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

    /// Checks the values that do not depend on a cluster.
    pub(crate) fn check(&self) -> Result<()> {
        #[cfg(feature = "cri")]
        if self.node_engine.is_some() && self.node.is_none() {
            return Err(Error::invalid("node_engine", "requires the option `node`"));
        }
        if self.host_ports.is_empty() || *self.host_ports.start() == 0 {
            return Err(Error::invalid("host_ports", "is not a range of ports"));
        }
        for key in self.annotations.keys() {
            if key.starts_with(runtime_core::LABEL_PREFIX) {
                return Err(Error::invalid("annotations", format!("{key} is reserved")));
            }
        }
        Ok(())
    }
}
