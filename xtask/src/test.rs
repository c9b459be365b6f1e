//! `cargo xtask test`: everything, on the real engines, with a table at the end.

mod binaries;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use test_engines::{Engine, Site};

use crate::guard::Guard;
use crate::readme;
use crate::workspace::{cargo, root};
use binaries::Binary;
use report::Row;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Parts to test (all by default)
    parts: Vec<Part>,
    /// Tests every version of an engine that there is, not only the machine's own
    #[arg(long)]
    matrix: bool,
    /// Leaves the engines running
    #[arg(long)]
    keep: bool,
    /// Writes what the engines can do into README.md, in place of comparing it
    #[arg(long)]
    write_readme: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Docker,
    Podman,
    Cri,
    K8s,
}

impl Part {
    /// The package with its tests.
    fn package(self) -> &'static str {
        match self {
            Self::Docker | Self::Podman => "docker-tests",
            Self::Cri => "cri-tests",
            Self::K8s => "k8s-tests",
        }
    }

    /// The tests of the command line on its engines, where they run there.
    fn command_line(self) -> Option<&'static str> {
        (self != Self::Podman).then_some("cli-tests")
    }

    /// The engines that it is tested on.
    fn engines(self, matrix: bool) -> &'static [Engine] {
        match (self, matrix) {
            (Self::Docker, false) => &[Engine::Docker],
            (Self::Docker, true) => &[Engine::Docker, Engine::Docker26, Engine::Docker28],
            (Self::Podman, _) => &[Engine::Podman],
            (Self::Cri, false) => &[Engine::Containerd],
            (Self::Cri, true) => &[Engine::Containerd, Engine::Containerd17, Engine::Containerd21],
            (Self::K8s, _) => &[Engine::Kubernetes],
        }
    }
}

/// The program that runs on every engine. Beside it [`FAULTS`] does; any other one of a package runs
/// once for each backend.
const CONFORMANCE: &str = "conformance";

/// The program with what only this backend can be asked.
const FAULTS: &str = "faults";

/// Those modules of [`FAULTS`] that use no engine, or have one of their own that is the same
/// whichever the environment names: on a second engine they would only repeat themselves.
const ON_NO_ENGINE: &[&str] = &[
    "dependencies::",
    "dropped::",
    "engine_stops::",
    "full_disk::",
    "no_engine::",
    "sessions::",
    "thrown_away::",
];

/// The name of the row of a conformance program: the engine's, and what the program's own name adds
/// to it where it uses the engine in another way. `None` for any other program.
fn row_of(engine: Engine, binary: &str) -> Option<String> {
    let way = binary.strip_prefix(CONFORMANCE)?;
    Some(format!("{engine}{}", way.replace('_', "-")))
}

/// Programs that run with `--matrix` alone. What this one needs is fetched from unstable, which may
/// be another on any day, and built for a minute: no change should wait for that or fail by it.
const MATRIX_ONLY: &[&str] = &["conformance_translator"];

/// The tests of the engines themselves.
const ENGINES: &str = "test-engines";

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
        true => WHOLE.to_vec(),
        false => arguments.parts.clone(),
    };
    let mut failed = Vec::new();
    let build = timed("build", || binaries::build(guard))?;
    if !build.complete {
        failed.push("the workspace does not build".to_owned());
    }
    let binaries = &build.binaries;
    let outcomes = [
        timed("unit tests", || plain(guard, binaries)),
        timed("documentation tests", || documentation(guard)),
        timed("engines leave nothing", || engines(guard, binaries, &parts)),
    ];
    failed.extend(outcomes.into_iter().filter_map(|outcome| Some(format!("{:#}", outcome.err()?))));

    timed("registry", || guard.up(Engine::Registry).map(drop))?;
    let run = EngineRun { site, guard, binaries, parts: &parts, matrix: arguments.matrix };
    let Tested { rows, written, failed: more } = run.all();
    failed.extend(more);
    print!("\n{}", report::table(&rows));
    failed.extend(rows.iter().flat_map(Row::faults));
    let table = readme::take_reports(&written, !arguments.write_readme);
    failed.extend(table.err().map(|error| format!("{error:#}")));
    for fault in &failed {
        println!("FAILED: {fault}");
    }
    ensure!(failed.is_empty(), "{} failed", failed.len());
    Ok(())
}

/// What is tested when no part is named.
const WHOLE: &[Part] = &[Part::Docker, Part::Podman, Part::Cri, Part::K8s];

/// Whether the integration tests of a package want an engine or a machine of their own.
fn wants_engines(package: &str) -> bool {
    package == ENGINES || package.ends_with("-tests")
}

/// Every test that needs no engine.
fn plain(guard: &Guard, binaries: &[Binary]) -> Result<()> {
    let plain =
        binaries.iter().filter(|binary| !(binary.is_integration && wants_engines(&binary.package)));
    let mut failed = Vec::new();
    for binary in plain {
        println!("-- {} {}", binary.package, binary.name);
        if guard.run(binary.command().arg("--quiet")).is_err() {
            guard.check()?;
            failed.push(format!("{} {}", binary.package, binary.name));
        }
    }
    ensure!(failed.is_empty(), "unit tests: {}", failed.join(", "));
    Ok(())
}

fn documentation(guard: &Guard) -> Result<()> {
    guard
        .run(&mut cargo(&[
            "test",
            "--quiet",
            "--workspace",
            "--all-features",
            "--doc",
            "--no-fail-fast",
        ]))
        .context("documentation tests")
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
}

impl EngineRun<'_> {
    /// All parts, one after the other: two at a time were tried, and Podman came to a stop beside a
    /// cluster on two cores.
    fn all(&self) -> Tested {
        let mut all = Tested::default();
        self.parts.iter().for_each(|part| all.add(self.part(*part)));
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
                    && (matrix || !MATRIX_ONLY.contains(&binary.name.as_str()))
                    && (binary.package == part.package()
                        || part.command_line() == Some(binary.package.as_str()))
            })
            .collect();
        ensure!(
            binaries.iter().any(|binary| binary.name == CONFORMANCE),
            "{} has no {CONFORMANCE} tests, or they do not build",
            part.package()
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
            let mut command = binary.command();
            if again {
                command.args(ON_NO_ENGINE.iter().flat_map(|module| ["--skip", module]));
            }
            command.envs(running.variables()?).env("RUNTIME_TEST_REPORT", &report);
            if matrix {
                command.env("RUNTIME_TEST_MATRIX", "1");
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

fn timed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let start = Instant::now();
    let outcome = work();
    let word = if outcome.is_ok() { "done" } else { "FAILED" };
    println!("== {name}: {word} in {:.1} s", start.elapsed().as_secs_f32());
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_conformance_program_has_a_row() {
        let row = |binary: &str| row_of(Engine::Kubernetes, binary);
        assert_eq!(row("conformance").as_deref(), Some("kubernetes"));
        assert_eq!(row("conformance_node").as_deref(), Some("kubernetes-node"));
        assert_eq!(row("conformance_stats").as_deref(), Some("kubernetes-stats"));
        assert_eq!(row("faults"), None);
    }
}
