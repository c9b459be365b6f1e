//! Kubernetes behind the `runtime-core` interface.

mod capabilities;
mod client;
mod connect;
mod error;
mod names;
mod spec;
mod state;
mod wire;

pub use connect::{
    CpuShares, KubernetesOptions, MountSources, StatsSource, Toleration, VoluntaryEviction,
};

/// The name of the backend.
pub(crate) const BACKEND: &str = "kubernetes";
