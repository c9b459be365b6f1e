//! `cargo xtask test`: everything, on the real engines, with a table at the end.

mod binaries;
mod guard;
mod report;

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use test_engines::{Engine, Site};

use crate::workspace::{cargo, metadata, root};
use binaries::Binary;
use guard::Guard;
use report::Row;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Parts to test (by default all)
    parts: Vec<Part>,
    /// Tests every version of an engine that there is, not only the machine's own
    #[arg(long)]
    matrix: bool,
    /// Leaves the engines running
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Docker,
    Podman,
}

impl Part {
    /// The package with its tests.
    fn package(self) -> &'static str {
        match self {
            Self::Docker | Self::Podman => "docker-tests",
        }
    }

    /// The engines that it is tested on.
    fn engines(self, matrix: bool) -> Vec<Engine> {
        match (self, matrix) {
            (Self::Docker, false) => vec![Engine::Docker],
            (Self::Docker, true) => vec![Engine::Docker, Engine::Docker26, Engine::Docker28],
            (Self::Podman, _) => vec![Engine::Podman],
        }
    }
}

/// The binary that runs on every engine; any other binary of a package runs once.
const CONFORMANCE: &str = "conformance";

/// Packages whose tests want an engine or a machine of their own; the others are plain.
fn wants_engines(package: &str) -> bool {
    package == "test-engines" || package.ends_with("-tests")
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let site = Site::of_checkout()?;
    let guard = Guard::new(site.clone(), arguments.keep)?;
    let outcome = run_guarded(arguments, &site, &guard);
    // Also after a failure and after Ctrl-C.
    let cleaned = guard.finish();
    outcome.and(cleaned)
}

fn run_guarded(arguments: &Arguments, site: &Site, guard: &Guard) -> Result<()> {
    let parts = match arguments.parts.is_empty() {
        true => Part::value_variants().to_vec(),
        false => arguments.parts.clone(),
    };
    let mut failed = Vec::new();
    let plain = timed("unit and documentation tests", || plain(guard));
    failed.extend(plain.err().map(|error| format!("{error:#}")));
    let footprint = timed("engines leave nothing", || engines_leave_nothing(guard));
    failed.extend(footprint.err().map(|error| format!("{error:#}")));

    timed("registry", || guard.up(Engine::Registry).map(drop))?;
    let mut rows: Vec<Row> = Vec::new();
    let mut ran_once: BTreeSet<String> = BTreeSet::new();
    for part in parts {
        let binaries = match binaries::build(guard, part.package()) {
            Ok(binaries) => binaries,
            Err(error) => {
                failed.push(format!("{part:?}: {error:#}"));
                continue;
            }
        };
        for engine in part.engines(arguments.matrix) {
            let row =
                timed(engine.name(), || test_engine(site, guard, engine, &binaries, &mut ran_once));
            match row {
                Ok(row) => rows.push(row),
                Err(error) => failed.push(format!("{engine}: {error:#}")),
            }
        }
    }
    print!("\n{}", report::table(&rows));
    for row in &rows {
        failed.extend(row.faults());
    }
    for fault in &failed {
        println!("FAILED: {fault}");
    }
    ensure!(failed.is_empty(), "{} failed", failed.len());
    Ok(())
}

/// Unit, integration and documentation tests of every package that needs no engine, and the
/// unit tests of those that do.
fn plain(guard: &Guard) -> Result<()> {
    let metadata = metadata(&[])?;
    let apart: Vec<String> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.to_string())
        .filter(|name| wants_engines(name))
        .collect();
    let mut arguments = vec!["test", "--workspace", "--all-features"];
    for name in &apart {
        arguments.extend(["--exclude", name]);
    }
    guard.run(&mut cargo(&arguments))?;
    guard.run(&mut cargo(&["test", "-p", "test-engines", "--lib"]))?;
    guard.run(&mut cargo(&["test", "-p", "test-engines", "--doc"]))
}

fn engines_leave_nothing(guard: &Guard) -> Result<()> {
    guard.run(&mut cargo(&["test", "-p", "test-engines", "--test", "*"]))
}

fn test_engine(
    site: &Site,
    guard: &Guard,
    engine: Engine,
    binaries: &[Binary],
    ran_once: &mut BTreeSet<String>,
) -> Result<Row> {
    let started = guard.up(engine)?;
    let running = site.status(engine).context("it went away")?;
    let reports = root().join("target/reports");
    std::fs::create_dir_all(&reports)?;
    let mut row = Row::new(engine.name(), running.version());
    for binary in binaries {
        guard.check()?;
        if binary.name != CONFORMANCE && !ran_once.insert(binary.name.clone()) {
            continue;
        }
        println!("-- {} on {engine} {}", binary.name, running.version());
        let report = reports.join(format!("{engine}-{}.json", binary.name));
        let mut command = binary.command();
        command.envs(running.variables()?).env("RUNTIME_TEST_REPORT", &report);
        row.add(&binary.name, report::run(guard, &mut command, &report)?);
    }
    if started {
        guard.down(engine)?;
    }
    Ok(row)
}

fn timed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let start = Instant::now();
    let outcome = work();
    let word = if outcome.is_ok() { "done" } else { "FAILED" };
    println!("== {name}: {word} in {:.1} s", start.elapsed().as_secs_f32());
    outcome
}
