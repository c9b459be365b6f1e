//! The Kubernetes backend of `runtime-core`: containers run as pods of a cluster, with the same
//! meaning of created, started, stopped, exited and logged as on a single engine.
//!
//! ```no_run
//! use runtime_core::{ContainerSpec, Runtime, Scope};
//! use runtime_k8s::{KubernetesOptions, KubernetesRuntime};
//!
//! # async fn run() -> runtime_core::Result<()> {
//! let options = KubernetesOptions::new(Scope::new("jobs")?).namespace("batch");
//! let cluster = KubernetesRuntime::connect(options).await?;
//! let spec = ContainerSpec::new("busybox").command(["echo", "hello"]).memory(64 << 20);
//! let container = cluster.create_container(&spec).await?;
//! container.start().await?;
//! println!("{}", container.wait().await?);
//! container.remove().await
//! # }
//! ```
//!
//! The cluster is that of kubectl's configuration, or that of the pod that this program runs in.
//! [`KubernetesOptions`] has the options that are specific to Kubernetes, from the namespace to
//! tolerations.
//!
//! # How a container maps to a pod
//!
//! - **Created** is a pod without a node: a scheduling gate keeps it from the scheduler, or, on servers
//!   without gates (before 1.27), a required affinity to a label that its start adds to the pod itself.
//!   It has its real image, so that the policies of the cluster check it at its creation. No process
//!   runs, and no resources are reserved.
//! - **Start** is one patch that removes the gate and adds the label. The scheduler then chooses a node.
//! - **Stop** changes the image to an invalid one: the node ends the process with the pod's grace, and
//!   the pod keeps its true exit code and its logs. If a policy of the cluster refuses that, the pod
//!   gets a deadline instead, on servers from 1.27 on; see [`StopMethod`].
//! - **Remove** deletes the pod with the minimum grace, two seconds, and returns when the node reports
//!   that the process has ended.
//! - **One watch** serves info, wait, list and events of all containers of a connection.
//! - **Containers that would never run are ended**, for example if an image cannot be pulled or no node
//!   has room. After a budget ([`KubernetesOptions::pull_budget`] and others) the exit is written to the
//!   pod, so that all processes agree.
//! - **Containers on a lost node are ended**, too: a node may be silent for
//!   [`KubernetesOptions::node_budget`].
//! - Registry logins are stored in Secrets that the pod owns.
//! - **Exec, attach and copy** use a WebSocket if the server supports version 5 of the protocol, and
//!   SPDY otherwise (before 1.30): both can close stdin. Copies require `tar` and `sh` in the container.
//!
//! # On one node
//!
//! [`KubernetesOptions::node`] binds all containers to one node. With the feature `cri`, a program that
//! runs on that node can also use its container engine (`KubernetesOptions::node_engine`) for logs,
//! stats, stops and signals: stdout and stderr are separate, a stop has any grace or none, `kill` works,
//! and stats need no right beyond the Role. The kubelet still owns the pods, and nothing is created or
//! removed on the engine. This requires root, and the kubelet's log directory at `/var/log/pods`. Log
//! files that the kubelet has compressed after their rotation are not read.
//!
//! # Rights
//!
//! These are the rights in the namespace. Only statistics of the nodes require more. The conformance
//! suite runs with exactly the Role; its cases of statistics also have the ClusterRole:
//!
//! ```yaml
#![doc = include_str!("../role.yaml")]
//! ```
//!
//! # Differences to other engines
//!
//! - Every kubelet adds the variables `KUBERNETES_SERVICE_*` and `KUBERNETES_PORT*` of the API server
//!   to every container.
//! - The kubelet computes the OOM score of a container that is not evictable from its share of the
//!   node's memory. An evictable container has 1000, as on every engine.
//! - Without CPU shares a container has the minimum weight, not the default one.
//! - containerd drops a carriage return before a line end in the logs (`logs_carriage_returns`).
//! - Of a log that the kubelet has rotated (10 MiB by default) only the newest file can be read. Its
//!   first line can be the rest of a line, because the engine splits lines at the end of a file.
//! - The event of a removal has the time at which it was observed.
//! - The process of an exec does not end with its session, and cannot be sent a signal.
//! - A command that is not in the image is `StartFailed`: the code 128 of the reason `StartError` is
//!   set by the engine and not by the process.
//! - An exec over a WebSocket whose process does not read its input does not end with the process if
//!   the input is large: the API server waits for the node to accept it, as with `kubectl exec -i`.
//! - Of an image with `USER uid:gid` the kubelet uses only the user, and the process has the group 0
//!   (`image_group`). [`ContainerSpec::user`](runtime_core::ContainerSpec::user) with both is honoured.
//! - From Kubernetes 1.35 on a node uses an image that it has only for a pod whose login has pulled it
//!   before, or could pull it. With the pull policy `never` the kubelet then reports that the image is
//!   not present, although it is.
//! - A cluster with the admission plugin AlwaysPullImages pulls each image. The policy `never` is
//!   refused there, and `missing` is logged as a warning.
//! - The node checks the kind of the source of a mount at the start. If a mount in a spec has no kind
//!   ([`Mount::kind`](runtime_core::Mount::kind)), a create first runs one more pod that determines the
//!   kinds of all its mounts and runs no process; see [`MountSources`]. The node has no check for a
//!   FIFO.
//!
//! # Refusals by the cluster
//!
//! A quota that requires a limit, a request larger than a whole quota, and a limit range are
//! `InvalidArgument` with the field of the spec. A full quota is `ResourceExhausted`. A policy (an
//! admission webhook, a ValidatingAdmissionPolicy, PodSecurity and others) is `PermissionDenied` with
//! its name, and so is a missing right. Warnings of the API server are logged once each, as events of
//! `tracing` at the level warn.

mod backend;
mod client;
mod connect;
mod error;
mod json;
mod model;
mod ops;
mod options;
mod quantity;
mod runtime;
mod state;

pub use options::{
    CpuShares, KubernetesOptions, MountSources, StatsSource, StopMethod, Toleration,
    VoluntaryEviction,
};
pub use runtime::KubernetesRuntime;
