//! `cargo xtask bench docker`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use test_engines::{Engine, Running, Site};

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
    let mut bench = bench();
    bench.arg("docker").args(&arguments.options);
    if !arguments.options.iter().any(|option| option == "--help" || option == "-h") {
        let site = Site::of_checkout()?;
        for engine in [Engine::Registry, arguments.engine] {
            bench.envs(up(&site, engine)?.variables()?);
        }
    }
    let status = bench.status().context("starting cargo")?;
    ensure!(status.success(), "the bench has failed");
    Ok(())
}

/// Engines stay up, as for the tests.
fn up(site: &Site, engine: Engine) -> Result<Running> {
    match site.status(engine) {
        Some(running) => Ok(running),
        None => site.up(engine),
    }
}

/// The bench is a program of its own, because only a release build has figures to show.
fn bench() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    cargo.args(["run", "--quiet", "--release", "--package", "bench", "--"]);
    cargo
}
