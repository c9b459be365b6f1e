//! Docker Engine and Podman behind the `runtime-core` interface.

mod connect;
mod connector;
mod container;
mod engine;
mod error;
mod http;
mod inspect;
mod runtime;
mod shared;
#[cfg(feature = "tls")]
mod tls;

pub use connect::DockerOptions;
pub use runtime::DockerRuntime;

/// What [`Runtime::backend`](runtime_core::Runtime::backend) says.
const BACKEND: &str = "docker";
