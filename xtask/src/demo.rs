//! `cargo xtask demo`: runs one real container, from the pull to the exit code.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::workspace::cargo;

/// Runs a real container and shows each step.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The backend; k8s starts a private cluster: etcd, the Kubernetes components and a node
    #[arg(long, value_parser = ["docker", "cri", "k8s"], default_value = "docker")]
    backend: String,
}

/// Replaces this process with the demo program, which then handles Ctrl-C itself. It is a separate
/// package because it depends on all three backends.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut command = cargo(&["run", "--quiet", "--package", "demo", "--", "--backend"]);
    Err(command.arg(&arguments.backend).exec()).context("failed to run cargo")
}
