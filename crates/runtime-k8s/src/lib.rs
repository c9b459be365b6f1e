//! Kubernetes behind the `runtime-core` interface: the program that ran on one machine's engine runs
//! on a cluster, with the same meaning of created, started, stopped, exited and logged.
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
//! The cluster is the one that kubectl would speak to, or that this program runs in as a pod. What
//! only Kubernetes has, from the namespace to tolerations, stands in [`KubernetesOptions`].
//!
//! # How a container is a pod
//!
//! - **Created** is a pod that no node has: a scheduling gate holds it, or, on servers without gates
//!   (before 1.27), a required affinity to a label that its start puts on the pod itself. It has its
//!   real image, so that the cluster's policies judge it now. Nothing runs, and nothing is charged.
//! - **Start** is one patch: the gate goes, the label comes, the cluster's scheduler chooses a node.
//! - **Stop** changes the image to one that cannot be: the node ends the process with the pod's
//!   grace, and the pod stays, with its true exit code and its logs. If a policy of the cluster
//!   refuses that, the pod gets a deadline instead, on servers from 1.27 on; see [`StopMethod`].
//! - **Remove** deletes the pod with the least grace there is, two seconds, and is done when the
//!   node says that the process has ended.
//! - **One watch** feeds info, wait, list and events of all containers of a connection.
//! - **What would never run is ended**: an image that cannot be pulled, a pod that no node takes.
//!   After a budget ([`KubernetesOptions::pull_budget`] and others) the verdict is written to the
//!   pod, so that it is over for everyone.
//! - **What was lost with its node is over** as well: a node may be silent for
//!   [`KubernetesOptions::node_budget`].
//! - Registry logins become Secrets that the pod owns.
//! - **Exec, attach and copy** go over a WebSocket where the server speaks version 5 of the protocol,
//!   and over SPDY where it does not (before 1.30): either lets an input end. Copies take `tar` and
//!   `sh` in the container.
//!
//! # On one node
//!
//! [`KubernetesOptions::node`] binds all containers to one node. A program that runs on that node
//! can, with the feature `cri`, name its container engine too (`KubernetesOptions::node_engine`).
//! Logs, stats, stops and signals then go to the engine itself: standard output and error are told
//! apart, a stop has any grace or none, `kill` works, and stats need no right beyond the Role. The
//! kubelet goes on to own the pods; nothing is made or removed on the engine. It takes root, and
//! the kubelet's folder of logs at `/var/log/pods`. Files that the kubelet has packed after their
//! rotation are not read.
//!
//! # Rights
//!
//! What it needs in its namespace, and nothing else but for statistics of the nodes. The conformance
//! suite runs with exactly the Role; its cases of statistics have the ClusterRole as well:
//!
//! ```yaml
#![doc = include_str!("../role.yaml")]
//! ```
//!
//! # What a cluster does otherwise
//!
//! - Every kubelet adds the variables `KUBERNETES_SERVICE_*` and `KUBERNETES_PORT*` of the API server
//!   to every container.
//! - The OOM score of a container that is not evictable is the kubelet's, by its share of the
//!   node's memory; an evictable one has 1000 as everywhere.
//! - Without CPU shares a container has the least weight, not the usual one.
//! - containerd leaves out a carriage return before a line end in the logs (`logs_carriage_returns`).
//! - Of a log that the kubelet has rotated (10 MiB by default) only the newest file can be read, and
//!   its first line can be the rest of one, because the engine cuts lines where it changes files.
//! - The event of a removal has the time at which it was seen.
//! - The process of an exec does not end with its session, and no signal can be sent to it.
//! - A command that is not in the image is `StartFailed`: the code 128 of the reason `StartError` is the
//!   engine's and not the process's.
//! - An exec over a WebSocket that is given much more input than its process reads does not end with
//!   the process: the API server waits for the node to take the input, as `kubectl exec -i` does.
//! - Of an image with `USER uid:gid` the kubelet takes the user alone, and the process has the group 0
//!   (`image_group`).
//!   [`ContainerSpec::user`](runtime_core::ContainerSpec::user) with both is honoured.
//! - From Kubernetes 1.35 on a node uses an image that it has only for a pod whose login has pulled it
//!   before, or would. With the pull policy `never` the kubelet then reports that the image is not
//!   present, although it is.
//! - A cluster with the admission plugin AlwaysPullImages pulls each image. The policy `never` is
//!   refused there, and `missing` is reported with a warning.
//! - The kind of the source of a mount is checked by the node, at the start. If a spec does not say it
//!   ([`Mount::kind`](runtime_core::Mount::kind)), a create first runs one more pod that finds out the
//!   kinds of all its mounts and runs no process; see [`MountSources`]. The node has no check for a
//!   FIFO.
//!
//! # What the cluster refuses
//!
//! A quota that requires a limit, one whose whole is less than what is requested, and a limit range are
//! `InvalidArgument` with the field of the spec. A quota that is full is `ResourceExhausted`. A policy
//! (an admission webhook, a ValidatingAdmissionPolicy, PodSecurity and others) is `PermissionDenied`
//! with its name, and so is a missing right. Warnings of the API server are events of `tracing` at the
//! level warn, once each.

mod backend;
mod client;
mod connect;
mod error;
mod json;
mod model;
mod ops;
mod options;
mod quantity;
mod state;

pub use connect::KubernetesRuntime;
pub use options::{
    CpuShares, KubernetesOptions, MountSources, StatsSource, StopMethod, Toleration,
    VoluntaryEviction,
};

/// The name of the backend.
pub(crate) const BACKEND: &str = "kubernetes";
