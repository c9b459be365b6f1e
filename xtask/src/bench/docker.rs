//! `cargo xtask bench docker`.

use anyhow::Result;
use test_engines::Engine;

/// Measures on a private engine. What follows the engine's name goes to the bench itself:
/// `cargo xtask bench docker --help` shows it.
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
