//! Real container engines on a bare machine, private to the checkout, for tests.
//!
//! Each [`Engine`] is an instance below `target/env` with its own state, socket, mount namespace,
//! control group, bridge and addresses. The system's own engines are neither used nor changed.
//! [`Engine::up`] installs missing packages, starts the daemon and waits until it responds;
//! [`Engine::down`] leaves no process, mount, bridge, packet filter rule or control group. Both may
//! be called at any time and by several processes concurrently.
//!
//! ```no_run
//! use test_engines::Engine;
//!
//! # fn main() -> anyhow::Result<()> {
//! let docker = Engine::DockerFaults.up()?;
//! println!("{} at {:?}", docker.version(), docker.host());
//! Engine::DockerFaults.kill_hard()?; // containers stay
//! Engine::DockerFaults.restart()?; // same socket, same containers
//! Engine::DockerFaults.down()?;
//! # Ok(())
//! # }
//! ```
//!
//! The crate requires root on a Debian system; everything else is installed.

mod catalog;
mod cgroup;
mod containerd;
mod docker;
mod engine;
mod firewall;
mod footprint;
mod host;
mod http;
mod image;
mod instance;
mod keeper;
mod kubernetes;
mod mirror;
mod net;
mod netavark;
mod packages;
mod podman;
mod poll;
mod process;
mod registry;
mod rootfs;
mod running;
mod site;

pub use catalog::{BUSYBOX, ENTRY, GROUPED, LAYERS, PAUSE};
pub use engine::Engine;
pub use footprint::Footprint;
pub use kubernetes::{Cluster, Component, HOLLOW, NAMESPACE, NODE, translator};
pub use mirror::debian_mirror;
pub use process::Process;
pub use registry::{image_archive, push_unique_image};
pub use rootfs::CACHE_VARIABLE;
pub use running::Running;
pub use site::{DIR_VARIABLE, Site};

/// Prints progress.
fn log_progress(label: &str, message: &str) {
    eprintln!("[{label}] {message}");
}
