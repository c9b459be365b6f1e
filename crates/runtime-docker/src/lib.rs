//! Docker Engine and Podman behind the `runtime-core` interface.
//!
//! [`DockerRuntime::connect`] finds the engine as Docker's command line does (`DOCKER_HOST`,
//! contexts, TLS), asks it who it is, and speaks the newest version of its API that both know:
//! 1.41, which is Engine 20.10, or later. What it can do follows from its kind, its version and
//! its configuration.
//!
//! ```no_run
//! # async fn run() -> runtime_core::Result<()> {
//! use runtime_core::{ContainerExt, ContainerSpec, Runtime, Scope};
//! use runtime_docker::{DockerOptions, DockerRuntime};
//!
//! let engine = DockerRuntime::connect(DockerOptions::new(Scope::new("example")?)).await?;
//! let container = engine.create_container(&ContainerSpec::new("busybox").command(["true"])).await?;
//! assert!(container.run().await?.success());
//! container.remove().await
//! # }
//! ```
//!
//! All requests go through one client of our own, bollard's as well. Ours are those where bollard
//! hides what is needed: whether a start or a stop changed anything, streams as they are, states
//! that it does not know.

mod attach;
mod capabilities;
mod connect;
mod connector;
mod container;
mod copy;
mod create;
mod demux;
mod engine;
mod error;
mod events;
mod exec;
mod exits;
#[cfg(test)]
mod fake;
mod frames;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod info;
mod inspect;
mod json_lines;
mod labels;
mod life;
mod list;
mod logs;
mod mounts;
mod pull;
#[cfg(test)]
mod recorded;
mod runtime;
mod session;
mod shared;
mod spec;
mod stats;
mod time;
#[cfg(feature = "tls")]
mod tls;

pub use connect::DockerOptions;
pub use runtime::DockerRuntime;

/// What [`Runtime::backend`](runtime_core::Runtime::backend) says.
const BACKEND: &str = "docker";
