//! Tests that need neither an engine nor root.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::ENGINES;
use super::binaries::Binary;
use super::cases::Cases;
use super::output::Output;
use crate::guard::Stop;
use crate::workspace::cargo;

/// Program of a backend's test package that runs the backend on a fake server.
pub const FAKE: &str = "fake";

/// Returns true if an integration test needs an engine or a machine of its own.
pub fn needs_engine(package: &str, target: &str) -> bool {
    (package == ENGINES || package.ends_with("-tests")) && target != FAKE
}

/// Runs every test program that needs no engine. Returns the number of programs with a selected
/// case.
pub fn run(stop: &Stop, binaries: &[Binary], cases: &Cases, output: &Output) -> Result<usize> {
    let plain = binaries
        .iter()
        .filter(|binary| !(binary.is_integration && needs_engine(&binary.package, &binary.name)));
    let mut failed = Vec::new();
    let mut ran = 0;
    for binary in plain {
        let Some(mut command) = cases.command_for_standard_harness(binary)? else { continue };
        output.line(&format!("-- {} {}", binary.package, binary.name));
        ran += 1;
        if output.run(stop, command.arg("--quiet")).is_err() {
            stop.check()?;
            failed.push(format!("{} {}", binary.package, binary.name));
        }
    }
    ensure!(failed.is_empty(), "unit tests: {}", failed.join(", "));
    Ok(ran)
}

/// Runs the doc tests.
pub fn documentation(stop: &Stop, output: &Output) -> Result<()> {
    let mut command: Command =
        cargo(&["test", "--quiet", "--workspace", "--all-features", "--doc", "--no-fail-fast"]);
    output.run(stop, &mut command).context("documentation tests")
}
