//! `cargo xtask ci`: all that a change has to pass.

mod dependencies;
mod files;
mod policy;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::workspace::{cargo, root};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Leaves out the tests: no engine is needed
    #[arg(long)]
    no_tests: bool,
}

type Step = (&'static str, fn() -> Result<()>);

const CHECKS: [Step; 7] = [
    ("format", || succeed(&mut cargo(&["fmt", "--all", "--check"]))),
    ("clippy", || {
        succeed(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ]))
    }),
    // With all features on, what is there for want of one is not looked at.
    ("clippy without features", || {
        succeed(&mut cargo(&["clippy", "--package", "runtime-k8s", "--", "-D", "warnings"]))?;
        for backend in ["docker", "cri", "k8s"] {
            let one = ["--no-default-features", "--features", backend];
            let command =
                [&["clippy", "--package", "runtime-cli"], &one[..], &["--", "-D", "warnings"]];
            succeed(&mut cargo(&command.concat()))?;
        }
        Ok(())
    }),
    ("documentation", || {
        succeed(
            cargo(&["doc", "--no-deps", "--workspace", "--all-features"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    }),
    ("generated code", || {
        succeed(&mut cargo(&["xtask", "codegen", "--check"]))?;
        succeed(&mut cargo(&["xtask", "readme", "--check"]))
    }),
    ("dependencies", dependencies::check),
    ("files", files::check),
];

/// The README tells its readers to run exactly this.
const TESTS: &str = "cargo xtask test";

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut steps = CHECKS.to_vec();
    if !arguments.no_tests {
        steps.push((TESTS, tests));
    }
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    let mut failed = Vec::new();
    for (name, step) in steps {
        println!("== {name}");
        let start = Instant::now();
        let outcome = step();
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => println!("== {name}: passed in {seconds:.1} s"),
            Err(error) => {
                println!("== {name}: FAILED in {seconds:.1} s: {error:#}");
                failed.push(name);
            }
        }
        ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    }
    // Every step runs: who repairs one fault should not have to wait to hear of the next.
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn tests() -> Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    ensure!(
        readme.lines().any(|line| line.trim().starts_with(TESTS)),
        "README.md does not name the command `{TESTS}`"
    );
    succeed(&mut cargo(&["xtask", "test"]))
}

/// Set once somebody has asked us to stop.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Runs a command to its end. Who asks us to stop stops it: the tests have engines to take down.
fn succeed(command: &mut Command) -> Result<()> {
    let mut child = command.spawn()?;
    let mut was_told = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if INTERRUPTED.load(Ordering::Relaxed) && !was_told {
            kill_process(Pid::from_child(&child), Signal::TERM).context("cannot stop a command")?;
            was_told = true;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}
