//! Kubernetes behind the `runtime-core` interface.

mod capabilities;
mod client;
mod connect;
mod container;
mod create;
mod error;
mod hold;
mod info;
mod link;
mod logs;
mod mounts;
mod names;
mod node;
mod pdb;
mod pods;
mod reap;
mod runtime;
mod secret;
mod seen;
mod shared;
mod spec;
mod state;
mod stats;
mod stop;
mod verdict;
mod wire;

pub use connect::{
    CpuShares, KubernetesOptions, MountSources, StatsSource, Toleration, VoluntaryEviction,
};
pub use runtime::KubernetesRuntime;

/// The name of the backend.
pub(crate) const BACKEND: &str = "kubernetes";
