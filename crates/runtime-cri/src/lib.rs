//! containerd, through the CRI, behind the `runtime-core` interface.
//!
//! It is written to version 1 of the CRI. The tests run containerd; of CRI-O they have a fake server,
//! see [below](#cri-o).
//!
//! The CRI is the interface that a kubelet has to the engine of its node. Here it is driven
//! without a kubelet: each container gets a sandbox of its own, log files that this crate reads
//! and rotates itself, and an exit that is found by looking.
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
//! # What is different from other backends
//!
//! - It is for hosts without a kubelet, or for an engine beside the kubelet's: a kubelet removes
//!   sandboxes that it did not make. [`Health`](runtime_core::Health) has a warning where one is
//!   seen.
//! - Signals, a size of `/dev/shm`, and the figures of networks and disks come from the host
//!   itself, not from the engine: they need root, and an engine that runs on the same host. So does
//!   the kernel's log, which says that a container ran out of memory where the engine has missed
//!   it (containerd 1.6 and 1.7 do on cgroup v1).
//! - A container gets an `/etc/hosts` of this library, with its own host name, if the engine runs on
//!   the same host and this process is root. Otherwise the engine's is used: containerd's is a copy
//!   of the host's, in which the container's name is missing.
//! - An exec has the user, the environment and the folder of the container: the CRI has no place
//!   for others. A signal to its process goes to the one that is new in the container since the
//!   exec. Execs of this library start one after another, also those of other processes; one of
//!   another program that starts at the same moment is told apart by its command, and if it cannot
//!   be, the signal is refused.
//! - The engine shares the PIDs and files of this host only if the process at the other end of its
//!   socket is the engine. Behind a relay, signals, sizes of `/dev/shm` and logs are refused.
//! - The CRI has no place for the name of a group. containerd before 1.6.22 and 1.7.3 gives a container
//!   whose user only the image names the supplementary groups of root; so there, an image whose `USER`
//!   has such a name (`name:group`) is refused as `Unsupported` unless the spec has a user.
//! - An attach misses what was said before it, because the engine attaches only to what runs; the
//!   log has all of it.
//! - Files are copied by the container's own `tar`, through `sh`, while it runs, and as its user.
//! - Sessions go to the engine's streaming server without TLS, which is how containerd and CRI-O
//!   offer it on the loopback.
//! - The CRI says nothing between the beginning and the end of a pull, and so a registry that
//!   stands still looks like a large image. A pull, also that of a create, therefore has a deadline
//!   for the whole of it,
//!   [`pull_without_progress`](runtime_core::Deadlines::pull_without_progress), by default two hours;
//!   [`pull_inactivity`](runtime_core::Deadlines::pull_inactivity) is about the silence of copies
//!   only. containerd gives a pull that stands still up by itself from version 1.7 on
//!   (`image_pull_progress_timeout`), and CRI-O where it was told to (`pull_progress_timeout`): it is
//!   `Unavailable` then. With others, as containerd 1.6, who cannot wait so long sets the deadline,
//!   or drops the stream or the create.
//! - A reap leaves folders on the host that belong to no sandbox until they are as old as
//!   [`create`](runtime_core::Deadlines::create), also one that is to reap things of any age: they
//!   can be those of a create of another process, which makes its sandbox only after them. Nothing
//!   runs for them, and a later reap takes them.
//! - containerd writes log lines without the carriage return that stood before their line end
//!   (`logs_carriage_returns`). For a container with a terminal it is put back, because the terminal
//!   writes one at every line end; for others it is lost.
//!
//! # CRI-O
//!
//! CRI-O 1.34 was run once by hand. The tests use a fake server with its answers, because no package
//! of it can be installed where they run. It differs from containerd:
//!
//! - It returns the existing sandbox or container for a name that is taken. The nonce of the create
//!   decides whether that is this one; otherwise the create fails with `AlreadyExists`.
//! - It runs runc at the create, so a command, user or directory that is missing is an error of the
//!   create (`InvalidArgument` with the field), not of the start.
//! - It sends the stop signal even if the grace is zero. As root on the same host, this crate kills the
//!   process first; otherwise `stop_immediately` is false.
//! - Its least memory limit is 12 MiB.
//! - It keeps carriage returns in logs (`logs_carriage_returns`), and exit codes of containers that end
//!   while it is down (`exit_while_away`).
//! - The second terminal of an exec writes `\r\n` for `\n`.
//! - Published ports do not answer on 127.0.0.1, only on the other addresses of the host.
//! - After a restart with 250 containers it answers only after more than 10 seconds:
//!   [`Deadlines::connect`](runtime_core::Deadlines::connect) has to be longer than that.

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

/// What [`Runtime::backend`](runtime_core::Runtime::backend) says.
const BACKEND: &str = "cri";
