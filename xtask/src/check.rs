//! `cargo xtask check`: what can be checked without an engine and without rights.

mod dependencies;
mod files;
mod policy;

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::guard::Stop;
use crate::test::output::Output;
use crate::test::{Cases, binaries, unit};
use crate::workspace::cargo;

/// A step: its name, and what it does.
type Step = (&'static str, fn(&Stop) -> Result<()>);

const STEPS: [Step; 8] = [
    ("format", |stop| stop.run(&mut cargo(&["fmt", "--all", "--check"]))),
    ("files", |_| files::check()),
    ("dependencies", |_| dependencies::check()),
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
    // With all features on, the code for a missing feature is not compiled. This has the backends
    // in it as well: clippy looks at the workspace's own dependencies too.
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
        ensure!(build.complete, "the workspace does not build");
        unit::run(stop, &build.binaries, &Cases::default(), &Output::plain()).map(drop)
    }),
];

/// Runs every step. A step that fails does not keep the next one from running: all faults are shown
/// at once.
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

/// Runs a step and reports how long it took; false if it failed.
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
