//! `cargo xtask demo`: one real container, from the pull to the exit code.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::workspace::cargo;

/// Runs a real container and shows what happens.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The backend to run it on; with k8s a private cluster comes up: etcd, the parts of Kubernetes
    /// and a node
    #[arg(long, value_parser = ["docker", "cri", "k8s"], default_value = "docker")]
    backend: String,
}

/// Becomes the program of the demo, so that Ctrl-C is its own. It stands apart because it takes all
/// three backends, which nothing else here has to be built for.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut command = cargo(&["run", "--quiet", "--package", "demo", "--", "--backend"]);
    Err(command.arg(&arguments.backend).exec()).context("cannot run cargo")
}
