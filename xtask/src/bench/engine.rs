//! The engine that is measured, and the bench.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use test_engines::{Engine, Running, Site};

/// Runs a part of the bench on a private engine. The bench is a program of its own, because only a
/// release build has figures to show.
pub(super) fn run(part: &str, engine: Engine, options: &[String]) -> Result<()> {
    let mut bench = Command::new(env!("CARGO"));
    bench
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .args(["run", "--quiet", "--release", "--package", "bench", "--", part])
        .args(options);
    if !options.iter().any(|option| option == "--help" || option == "-h") {
        let site = Site::of_checkout()?;
        for engine in [Engine::Registry, engine] {
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
