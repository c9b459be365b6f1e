//! The engine that is measured, and the bench.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use test_engines::{Engine, Site};

use crate::guard::Guard;
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
    let site = Site::of_checkout()?;
    let guard = Guard::new(site.clone(), false)?;
    let measured = if options.iter().any(|option| option == "--help" || option == "-h") {
        guard.run(&mut bench)
    } else {
        let usual = [Engine::Docker, Engine::Containerd, Engine::Kubernetes].contains(&engine);
        let named = if usual { String::new() } else { format!(" --engine {engine}") };
        println!("again with cargo xtask bench {part}{named} {}", options.join(" "));
        measure(&site, &guard, engine, &mut bench)
    };
    // Also after a failure and after Ctrl-C. What was up before stays up.
    let cleaned = guard.finish();
    measured.and(cleaned)
}

fn measure(site: &Site, guard: &Guard, engine: Engine, bench: &mut Command) -> Result<()> {
    for engine in [Engine::Registry, engine] {
        guard.up(engine)?;
        bench.envs(site.status(engine).context("it went away")?.variables()?);
    }
    guard.run(bench)
}

/// A program in cargo's target folder, where this one is in `debug`.
fn beside_this_program(path: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("where this program is")?;
    let target = this.ancestors().nth(2).context("this program is in no target folder")?;
    Ok(target.join(path))
}
