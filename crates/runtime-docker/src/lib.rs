//! Docker Engine and Podman behind the `runtime-core` interface.
//!
//! [`DockerRuntime::connect`] selects the engine as Docker's command line does (`DOCKER_HOST`,
//! contexts, TLS), identifies it, and negotiates the API version: 1.41 (Engine 20.10) or later. The
//! capabilities depend on the kind, version and configuration of the engine.
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
//! All requests are sent by one HTTP client, including bollard's. Requests bypass bollard if its
//! types lack information: if a start or stop had an effect, raw streams, and unknown states.
//!
//! A file imports only from its own row or a lower one: `backend`, `connect` and `runtime`; `ops`,
//! one file per operation; `state`, kept between calls; `client` and `model`; `options` and
//! `error`.

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
