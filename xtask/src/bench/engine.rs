//! The engine that is measured, and the bench.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use test_engines::{Engine, Running, Site};

/// Runs a part of the bench on a private engine. The bench is a program of its own, because only a
/// release build has figures to show.
pub(super) fn run(part: &str, engine: Engine, options: &[String]) -> Result<()> {
    let cargo = || {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
        cargo
    };
    // The command is measured too. All is built before an engine is up, and waits for it.
    let programs = ["--quiet", "--release", "--package", "bench", "--package", "runtime-cli"];
    let built = cargo().arg("build").args(programs).status().context("starting cargo")?;
    ensure!(built.success(), "the bench does not build");
    let mut bench = cargo();
    // Built with the same features, so that it is not built again.
    bench.arg("run").args(programs).args(["--bin", "bench", "--", part]).args(options);
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
