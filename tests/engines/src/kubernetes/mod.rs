//! A cluster of one real node and any number of hollow ones, on loopback.
//!
//! To the rest of the crate it is one more engine: its node's containerd is the daemon of the
//! instance, in a mount namespace of its own, and everything else is started when that answers.
//! All processes are in the control group of the instance and the pods below it, so that
//! nothing can be left over. What pods leave behind elsewhere (the CNI library's records,
//! network namespaces, mounts) exists in the namespace alone and goes with it.

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
pub(crate) use node::HOST_FOLDERS;

/// The name of the instance.
pub(crate) const WHO: &str = "kubernetes";
