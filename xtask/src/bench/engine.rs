//! Runs the bench on a private engine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use test_engines::{Engine, Site};

use crate::guard::Guard;
use crate::workspace::cargo;

/// Runs a part of the bench on a private engine. The bench is a separate program, because only a
/// release build returns meaningful results.
pub(super) fn run(part: &str, engine: Engine, options: &[String]) -> Result<()> {
    // The CLI is measured, too. Everything is built before the engine starts.
    let built =
        cargo(&["build", "--quiet", "--release", "--package", "bench", "--package", "runtime-cli"])
            .status()
            .context("failed to start cargo")?;
    ensure!(built.success(), "failed to build the bench");
    let mut bench = Command::new(beside_this_program("release/bench")?);
    bench.arg(part).args(options);
    let site = Site::of_checkout()?;
    let guard = Guard::new(site.clone(), false)?;
    let measured = if options.iter().any(|option| option == "--help" || option == "-h") {
        guard.run(&mut bench)
    } else {
        let usual = [Engine::Docker, Engine::Containerd, Engine::Kubernetes].contains(&engine);
        let named = if usual { String::new() } else { format!(" --engine {engine}") };
        println!("reproduce with cargo xtask bench {part}{named} {}", options.join(" "));
        measure(&site, &guard, engine, &mut bench)
    };
    // Also after a failure and after Ctrl-C. Engines that were up before stay up.
    let cleaned = guard.finish();
    measured.and(cleaned)
}

fn measure(site: &Site, guard: &Guard, engine: Engine, bench: &mut Command) -> Result<()> {
    for engine in [Engine::Registry, engine] {
        guard.up(engine)?;
        bench.envs(site.status(engine).context("the engine has stopped")?.variables()?);
    }
    guard.run(bench)
}

/// Returns the path of a program in cargo's target directory; this program is in its `debug`.
fn beside_this_program(path: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("failed to find this program")?;
    let target = this.ancestors().nth(2).context("this program is not in a target directory")?;
    Ok(target.join(path))
}
