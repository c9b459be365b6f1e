//! `cargo xtask check`: checks that need neither an engine nor root.

mod dependencies;
mod files;
mod modules;
mod policy;

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::guard::Stop;
use crate::test::output::Output;
use crate::test::{Cases, binaries, unit};
use crate::workspace::cargo;

/// A step: name and function.
type Step = (&'static str, fn(&Stop) -> Result<()>);

const STEPS: [Step; 9] = [
    ("format", |stop| stop.run(&mut cargo(&["fmt", "--all", "--check"]))),
    ("files", |_| files::check()),
    ("dependencies", |_| dependencies::check()),
    ("modules", |_| modules::check()),
    ("generated code", |stop| {
        stop.run(&mut cargo(&["xtask", "codegen", "--check"]))?;
        stop.run(&mut cargo(&["xtask", "readme", "--check"]))
    }),
    ("clippy", |stop| {
        stop.run(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ]))
    }),
    // Code for missing features is not compiled with all features on. These steps include the
    // backends, because clippy checks the workspace's own dependencies as well.
    ("clippy without features", |stop| {
        for backend in ["docker", "cri", "k8s"] {
            let one = ["--no-default-features", "--features", backend];
            let command =
                [&["clippy", "--package", "runtime-cli"], &one[..], &["--", "-D", "warnings"]];
            stop.run(&mut cargo(&command.concat()))?;
        }
        Ok(())
    }),
    ("documentation", |stop| {
        stop.run(
            cargo(&["doc", "--no-deps", "--workspace", "--all-features"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    }),
    ("unit tests", |stop| {
        let build =
            binaries::build(stop, |target, package| !unit::needs_engine(package, &target.name))?;
        ensure!(build.complete, "failed to build the workspace");
        unit::run(stop, &build.binaries, &Cases::default(), &Output::plain()).map(drop)
    }),
];

/// Runs every step. A failed step does not stop the following ones, so that all failures are
/// reported at once.
pub fn run(stop: &Stop) -> Result<()> {
    let begun = Instant::now();
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        if !timed(name, || step(stop)) {
            failed.push(name);
        }
        stop.check()?;
    }
    println!("== check took {:.0} s", begun.elapsed().as_secs_f32());
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Runs a step and prints its duration; returns false if it failed.
fn timed(name: &str, step: impl FnOnce() -> Result<()>) -> bool {
    println!("== {name}");
    let start = Instant::now();
    let outcome = step();
    let seconds = start.elapsed().as_secs_f32();
    match &outcome {
        Ok(()) => println!("== {name}: passed in {seconds:.1} s"),
        Err(error) => println!("== {name}: FAILED in {seconds:.1} s: {error:#}"),
    }
    outcome.is_ok()
}
