//! Docker Engine and Podman behind the `runtime-core` interface.

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
mod exits;
#[cfg(test)]
mod fake;
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
