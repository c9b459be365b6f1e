//! `cargo xtask test`: everything, on the real engines, with a table at the end.

pub mod binaries;
mod cases;
mod part;
mod report;
pub mod unit;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use test_engines::{Engine, Site};

use crate::guard::Guard;
use crate::readme;
use crate::workspace::root;
use binaries::Binary;
pub use cases::Cases;
use part::{CONFORMANCE, FAULTS, MATRIX_ONLY, ON_NO_ENGINE, Part, WHOLE, leave_out, row_of};
use report::Row;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Parts to test (all by default)
    parts: Vec<Part>,
    /// Runs only the cases whose names match this pattern (`stop::*`); may be repeated
    #[arg(long = "case", value_name = "PATTERN")]
    cases: Vec<String>,
    /// Tests every version of an engine that there is, not only the machine's own, and leaves no
    /// case out
    #[arg(long)]
    matrix: bool,
    /// Leaves the engines running
    #[arg(long)]
    keep: bool,
    /// Writes what the engines can do into README.md, in place of comparing it
    #[arg(long)]
    write_readme: bool,
}

/// The tests of the engines themselves.
const ENGINES: &str = "test-engines";

pub fn run(arguments: &Arguments) -> Result<()> {
    let begun = Instant::now();
    let cases = Cases::parse(&arguments.cases)?;
    let site = Site::of_checkout()?;
    let guard = Guard::new(site.clone(), arguments.keep)?;
    let outcome = run_guarded(arguments, &cases, &site, &guard);
    // Also after a failure and after Ctrl-C.
    let cleaned = guard.finish();
    println!("== took {}", minutes(begun));
    outcome.and(cleaned)
}

fn run_guarded(arguments: &Arguments, cases: &Cases, site: &Site, guard: &Guard) -> Result<()> {
    let parts = match arguments.parts.is_empty() {
        true => WHOLE.to_vec(),
        false => arguments.parts.clone(),
    };
    let mut failed = Vec::new();
    let build = timed("build", || binaries::build(guard, binaries::ALL))?;
    if !build.complete {
        failed.push("the workspace does not build".to_owned());
    }
    let binaries = &build.binaries;
    let mut ran = 0;
    if parts.contains(&Part::Unit) {
        ran += note(&mut failed, timed("unit tests", || unit::run(guard, binaries, cases)));
        if cases.is_all() {
            note(&mut failed, timed("documentation tests", || unit::documentation(guard)));
        }
    }
    if parts.contains(&Part::Engines) && cases.is_all() {
        let work = || engines(guard, binaries, &parts);
        note(&mut failed, timed("engines leave nothing", work));
    }
    let mut rows = Vec::new();
    if parts.iter().any(|part| part.package().is_some()) {
        timed("registry", || guard.up(Engine::Registry).map(drop))?;
        let run =
            EngineRun { site, guard, binaries, parts: &parts, matrix: arguments.matrix, cases };
        let Tested { rows: tested, written, failed: more } = run.all();
        failed.extend(more);
        let table = readme::take_reports(&written, !arguments.write_readme);
        failed.extend(table.err().map(|error| format!("{error:#}")));
        rows = tested;
    }
    if !cases.is_all() {
        rows.retain(|row| !row.is_empty());
        ran += rows.len();
        ensure!(ran > 0 || !failed.is_empty(), "no case has such a name");
    }
    if !rows.is_empty() {
        print!("\n{}\nslowest cases:\n{}", report::table(&rows), report::slowest(&rows));
    }
    failed.extend(rows.iter().flat_map(Row::faults));
    for fault in &failed {
        println!("FAILED: {fault}");
    }
    ensure!(failed.is_empty(), "{} failed", failed.len());
    Ok(())
}

/// Adds the failure of a step to the others, so that the steps after it run.
fn note<T: Default>(failed: &mut Vec<String>, outcome: Result<T>) -> T {
    outcome.unwrap_or_else(|error| {
        failed.push(format!("{error:#}"));
        T::default()
    })
}

/// The engines' own tests, of those that the parts use.
fn engines(guard: &Guard, binaries: &[Binary], parts: &[Part]) -> Result<()> {
    let own = binaries.iter().filter(|binary| binary.is_integration && binary.package == ENGINES);
    for binary in own {
        // A cluster takes minutes to build for the first time.
        if binary.name != "kubernetes" || parts.contains(&Part::K8s) {
            guard
                .run(&mut binary.command())
                .with_context(|| format!("{ENGINES} {}", binary.name))?;
        }
    }
    Ok(())
}

/// What engine after engine came to.
#[derive(Debug, Default)]
struct Tested {
    rows: Vec<Row>,
    written: Vec<PathBuf>,
    failed: Vec<String>,
}

impl Tested {
    fn add(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.written.extend(other.written);
        self.failed.extend(other.failed);
    }
}

/// The tests that run on engines.
struct EngineRun<'a> {
    site: &'a Site,
    guard: &'a Guard,
    binaries: &'a [Binary],
    parts: &'a [Part],
    matrix: bool,
    cases: &'a Cases,
}

impl EngineRun<'_> {
    /// All parts, one after the other: two at a time were tried, and Podman came to a stop beside a
    /// cluster on two cores.
    fn all(&self) -> Tested {
        let mut all = Tested::default();
        let parts = self.parts.iter().filter(|part| part.package().is_some());
        parts.for_each(|part| all.add(self.part(*part)));
        all
    }

    fn part(&self, part: Part) -> Tested {
        let mut all = Tested::default();
        for (at, engine) in part.engines(self.matrix).iter().enumerate() {
            match timed(engine.name(), || self.engine(*engine, part, at == 0)) {
                Ok(tested) => all.add(tested),
                Err(error) => all.failed.push(format!("{engine}: {error:#}")),
            }
        }
        all
    }

    /// Whether a part runs the programs that run once for each backend: the first one of it does.
    fn is_first_of_backend(&self, part: Part) -> bool {
        self.parts.iter().find(|other| other.package() == part.package()) == Some(&part)
    }

    fn engine(&self, engine: Engine, part: Part, is_first: bool) -> Result<Tested> {
        let Self { site, guard, matrix, .. } = *self;
        let binaries: Vec<_> = self
            .binaries
            .iter()
            .filter(|binary| {
                binary.is_integration
                    && binary.name != unit::FAKE
                    && (matrix || !MATRIX_ONLY.contains(&binary.name.as_str()))
                    && (part.package() == Some(binary.package.as_str())
                        || part.command_line() == Some(binary.package.as_str()))
            })
            .collect();
        ensure!(
            binaries.iter().any(|binary| binary.name == CONFORMANCE),
            "{} has no {CONFORMANCE} tests, or they do not build",
            part.package().unwrap_or_default()
        );
        let started = guard.up(engine)?;
        let running = site.status(engine).context("it went away")?;
        std::fs::create_dir_all(reports())?;
        // The first row is for the programs that have none of their own.
        let mut rows = vec![Row::new(engine.name(), running.version())];
        let mut written = Vec::new();
        for binary in binaries {
            guard.check()?;
            let own = row_of(engine, &binary.name);
            let again = !is_first && binary.name == FAULTS;
            if own.is_none() && !((is_first || again) && self.is_first_of_backend(part)) {
                continue;
            }
            let report = report_path(engine, &binary.name);
            let mut command = match binary.name.as_str() {
                FAULTS => {
                    let Some(mut command) = self.cases.of_standard_harness(binary)? else {
                        continue;
                    };
                    // The harness of a stable Rust gives durations to a caller who insists.
                    command
                        .env("RUSTC_BOOTSTRAP", "1")
                        .args(["-Zunstable-options", "--report-time"]);
                    command
                }
                _ => self.cases.of_our_harness(binary),
            };
            if again {
                command.args(ON_NO_ENGINE.iter().flat_map(|module| ["--skip", module]));
            }
            command.envs(running.variables()?).env("RUNTIME_TEST_REPORT", &report);
            if matrix {
                command.env("RUNTIME_TEST_MATRIX", "1");
            } else {
                let is_first = is_first && self.is_first_of_backend(part);
                command.env("RUNTIME_TEST_LEAVE_OUT", leave_out(&binary.name, is_first));
            }
            let title = format!("{} on {engine} {}", binary.name, running.version());
            let outcome = report::run(guard, &mut command, &report, &title)?;
            match own {
                None => rows[0].add(&binary.name, outcome),
                Some(name) => {
                    ensure!(report.exists(), "the conformance tests wrote no report");
                    written.push(report);
                    if name == engine.name() {
                        rows[0].add(&binary.name, outcome);
                    } else {
                        let mut row = Row::new(&name, running.version());
                        row.add(&binary.name, outcome);
                        rows.push(row);
                    }
                }
            }
        }
        if started {
            guard.down(engine)?;
        }
        Ok(Tested { rows, written, failed: Vec::new() })
    }
}

/// Where the test programs write their reports.
fn reports() -> PathBuf {
    root().join("target/reports")
}

fn report_path(engine: Engine, binary: &str) -> PathBuf {
    reports().join(format!("{engine}-{binary}.json"))
}

/// The time since `begun`, for people.
fn minutes(begun: Instant) -> String {
    let seconds = begun.elapsed().as_secs();
    format!("{} min {} s", seconds / 60, seconds % 60)
}

fn timed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let start = Instant::now();
    let outcome = work();
    let word = if outcome.is_ok() { "done" } else { "FAILED" };
    println!("== {name}: {word} in {:.1} s", start.elapsed().as_secs_f32());
    outcome
}
