//! `cargo xtask fuzz`: random inputs for every parser.

use anyhow::{Context, Result, ensure};

use crate::workspace::cargo;

/// Feeds random inputs to the parsers; see `cargo xtask fuzz --help`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// The target and its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let status = cargo(&["run", "--quiet", "--release", "--package", "fuzz", "--"])
        .args(&arguments.options)
        .status()
        .context("failed to start cargo")?;
    ensure!(status.success(), "a target has failed");
    Ok(())
}
