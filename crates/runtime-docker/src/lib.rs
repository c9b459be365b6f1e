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

mod backend;
mod client;
mod connect;
mod error;
#[cfg(test)]
mod fake;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod model;
mod ops;
mod options;
#[cfg(test)]
mod recorded;
mod runtime;
mod state;

pub use options::DockerOptions;
pub use runtime::DockerRuntime;
