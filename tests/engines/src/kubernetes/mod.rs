//! A cluster of one real node and any number of hollow nodes, on loopback.
//!
//! The rest of the crate treats the cluster as an engine: the containerd of its node is the daemon
//! of the instance, in its own mount namespace, and everything else is started once that responds.
//! All processes are in the instance's control group, with the pods below it, so that nothing is
//! left over. Other leftovers of pods (the CNI library's records, network namespaces, mounts) exist
//! only in the mount namespace and are removed with it.

mod access;
mod binaries;
mod bring_up;
mod cluster;
mod components;
mod hollow;
mod kernel;
mod kubeconfig;
mod kubectl;
mod layout;
mod members;
mod node;
mod pki;
mod translator;

pub use cluster::Cluster;
pub use components::Component;
pub use hollow::HOLLOW;
pub use layout::{NAMESPACE, NODE};
pub use translator::ensure as translator;

pub(crate) use bring_up::{clear, finish, install, plan, probe};
pub(crate) use node::HOST_DIRECTORIES;

/// Name of the instance.
pub(crate) const LOG_NAME: &str = "kubernetes";
