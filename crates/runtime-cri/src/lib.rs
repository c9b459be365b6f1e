//! containerd, through the CRI, behind the `runtime-core` interface.
//!
//! The crate implements version 1 of the CRI. It is tested with containerd, and with a fake server
//! for CRI-O, see [below](#cri-o).
//!
//! The CRI is the interface between a kubelet and the engine of its node. This crate uses it
//! without a kubelet: each container gets a sandbox of its own, this crate reads and rotates the
//! log files, and a list poll detects exits.
//!
//! ```no_run
//! use runtime_core::{ContainerExt, ContainerSpec, Runtime, Scope};
//! use runtime_cri::{CriOptions, CriRuntime};
//!
//! # async fn example() -> runtime_core::Result<()> {
//! let runtime = CriRuntime::connect(CriOptions::new(Scope::new("example")?)).await?;
//! let spec = ContainerSpec::new("docker.io/library/busybox:1.36").command(["true"]);
//! let container = runtime.create_container(&spec).await?;
//! println!("{}", container.run().await?);
//! container.remove().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Differences from other backends
//!
//! - The crate is for hosts without a kubelet, or for an engine beside the kubelet's, because a
//!   kubelet removes sandboxes that it did not create. [`Health`](runtime_core::Health) has a
//!   warning if a kubelet uses the engine.
//! - Signals, a size of `/dev/shm`, and the statistics of networks and disks use the host and not
//!   the engine. They require root and an engine on the same host. So does the kernel log, from
//!   which an out-of-memory kill is read that the engine has missed (containerd 1.6 and 1.7 on
//!   cgroup v1).
//! - A container gets an `/etc/hosts` of this library, with its own host name, if the engine runs
//!   on the same host and this process is root. Otherwise the engine provides the file: containerd
//!   copies that of the host, which lacks the container's name.
//! - An exec has the user, the environment and the directory of the container, because the CRI has
//!   no fields for them. A signal goes to the process that is new in the container since the exec.
//!   Execs of this library start one at a time, also across processes. The process of another
//!   program that starts at the same time is distinguished by its command. If that is not possible,
//!   the signal is refused.
//! - The engine shares the PIDs and files of this host only if the process at the other end of its
//!   socket is the engine. Behind a relay, signals, sizes of `/dev/shm` and logs are refused.
//! - The CRI has no field for the name of a group. If only the image sets a user, containerd before
//!   1.6.22 and 1.7.3 gives the container the supplementary groups of root. On these versions an
//!   image whose `USER` names a group (`name:group`) is refused as `Unsupported` unless the spec
//!   has a user.
//! - An attach session lacks earlier output, because the engine attaches only to a running
//!   container. The log has all output.
//! - Files are copied by the container's own `tar`, through `sh`, while the container runs and as
//!   its user.
//! - Sessions use the engine's streaming server without TLS, which containerd and CRI-O offer on
//!   the loopback interface.
//! - The CRI reports no progress during a pull, so a registry that stalls looks like a large image.
//!   A pull, also that of a create, therefore has a deadline for the whole of it,
//!   [`pull_without_progress`](runtime_core::Deadlines::pull_without_progress), by default two
//!   hours. [`pull_inactivity`](runtime_core::Deadlines::pull_inactivity) applies to copies only.
//!   containerd from version 1.7 on (`image_pull_progress_timeout`), and CRI-O if configured
//!   (`pull_progress_timeout`), abort a stalled pull, which is then `Unavailable`. With other
//!   engines, such as containerd 1.6, set the deadline, or drop the stream or the create.
//! - A reap, also one of any age, keeps directories on the host that belong to no sandbox until
//!   they are as old as [`create`](runtime_core::Deadlines::create), because a create of another
//!   process makes its directories before its sandbox. No process uses them, and a later reap
//!   removes them.
//! - containerd writes log lines without the carriage return before the line end
//!   (`logs_carriage_returns`). For a container with a terminal this crate restores it, because a
//!   terminal writes one at every line end. For others it is lost.
//!
//! # CRI-O
//!
//! CRI-O 1.34 was tested once by hand. The automated tests use a fake server that sends its
//! responses, because no package of CRI-O can be installed in their environment. CRI-O differs from
//! containerd:
//!
//! - It returns the existing sandbox or container for a name that is taken. The create compares the
//!   nonce, and fails with `AlreadyExists` if it is that of another create.
//! - It runs runc at the create, so a command, user or directory that is missing is an error of the
//!   create (`InvalidArgument` with the field), not of the start.
//! - It sends the stop signal even if the grace is zero. As root on the same host, this crate kills
//!   the process first; otherwise `stop_immediately` is false.
//! - Its minimum memory limit is 12 MiB.
//! - It keeps carriage returns in logs (`logs_carriage_returns`), and exit codes of containers that
//!   end while it is down (`exit_while_away`).
//! - The second terminal of an exec writes `\r\n` for `\n`.
//! - Published ports do not respond on 127.0.0.1, only on the other addresses of the host.
//! - After a restart with 250 containers it responds only after more than 10 seconds:
//!   [`Deadlines::connect`](runtime_core::Deadlines::connect) must be longer than that.

mod backend;
mod client;
mod connect;
mod error;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_crio;
mod generated;
mod host;
mod model;
mod node;
mod ops;
mod options;
mod runtime;
mod state;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

pub use node::{NodeContainer, NodeEngine, PodContainer};
pub use options::{CriOptions, LogRotation};
pub use runtime::CriRuntime;

/// Name of the backend, see [`Runtime::backend`](runtime_core::Runtime::backend).
const BACKEND: &str = "cri";
