//! The engine that is measured, and the bench.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use test_engines::{Engine, Running, Site};

use crate::workspace::cargo;

/// Runs a part of the bench on a private engine. The bench is a program of its own, because only a
/// release build has figures to show.
pub(super) fn run(part: &str, engine: Engine, options: &[String]) -> Result<()> {
    // The command is measured too. All is built before an engine is up, and waits for it.
    let built =
        cargo(&["build", "--quiet", "--release", "--package", "bench", "--package", "runtime-cli"])
            .status()
            .context("starting cargo")?;
    ensure!(built.success(), "the bench does not build");
    let mut bench = Command::new(beside_this_program("release/bench")?);
    bench.arg(part).args(options);
    if !options.iter().any(|option| option == "--help" || option == "-h") {
        let site = Site::of_checkout()?;
        for engine in [Engine::Registry, engine] {
            bench.envs(up(&site, engine)?.variables()?);
        }
    }
    let status = bench.status().context("starting the bench")?;
    ensure!(status.success(), "the bench has failed");
    Ok(())
}

/// A program in cargo's target folder, where this one is in `debug`.
fn beside_this_program(path: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("where this program is")?;
    let target = this.ancestors().nth(2).context("this program is in no target folder")?;
    Ok(target.join(path))
}

/// Engines stay up, as for the tests.
fn up(site: &Site, engine: Engine) -> Result<Running> {
    match site.status(engine) {
        Some(running) => Ok(running),
        None => site.up(engine),
    }
}
