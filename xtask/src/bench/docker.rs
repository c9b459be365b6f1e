//! `cargo xtask bench docker`.

use anyhow::Result;
use test_engines::Engine;

/// Measures on a private engine. Arguments after the engine's name are passed to the bench program:
/// see `cargo xtask bench docker --help`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// The engine: docker, docker-26, docker-28
    #[arg(long, default_value = "docker")]
    engine: Engine,
    /// Options of the bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    super::engine::run("docker", arguments.engine, &arguments.options)
}
