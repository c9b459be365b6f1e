//! `cargo xtask bench k8s`.

use anyhow::Result;
use test_engines::Engine;

/// Measures on a private cluster. Arguments are passed to the bench program: see `cargo xtask bench
/// k8s --help`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Options of the bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    super::engine::run("k8s", Engine::Kubernetes, &arguments.options)
}
