//! `cargo xtask bench`: the cost of this library compared with the bare clients.

mod cri;
mod docker;
mod engine;
mod k8s;

use anyhow::Result;
use clap::Subcommand;

/// Measures on a real engine.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    backend: Backend,
}

#[derive(Debug, Subcommand)]
enum Backend {
    /// Against bare bollard and Docker's CLI, on a private engine
    Docker(docker::Arguments),
    /// Against the bare generated client and plain reads, on a private engine
    Cri(cri::Arguments),
    /// Against bare kube, kubectl and polling loops, on a private cluster
    K8s(k8s::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.backend {
        Backend::Docker(arguments) => docker::run(arguments),
        Backend::Cri(arguments) => cri::run(arguments),
        Backend::K8s(arguments) => k8s::run(arguments),
    }
}
