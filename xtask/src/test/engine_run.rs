//! Tests that run on engines.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use test_engines::{Engine, Site};

use super::binaries::Binary;
use super::cases::Cases;
use super::output::Output;
use super::part::{
    CONFORMANCE, FAULTS, FAULTS_WITHOUT_ENGINE, MATRIX_ONLY, Part, leave_out, row_of,
};
use super::report::{self, Row};
use super::unit;
use crate::guard::Guard;
use crate::workspace::root;

/// Selection of a part's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    All,
    /// All but [`FAULTS`], which run in a later step while the engine stays up.
    ButFaults,
    /// [`FAULTS`] only.
    Faults,
}

impl Programs {
    fn include(self, program: &str) -> bool {
        match self {
            Self::All => true,
            Self::ButFaults => program != FAULTS,
            Self::Faults => program == FAULTS,
        }
    }
}

/// Result of a step.
#[derive(Debug, Default)]
pub struct StepResult {
    pub rows: Vec<Row>,
    /// The reports of conformance programs.
    pub written: Vec<PathBuf>,
    pub failed: Vec<String>,
    /// Number of programs without a row that ran.
    pub ran: usize,
}

impl StepResult {
    /// Creates the result of a step that failed as a whole.
    pub fn failure(text: String) -> Self {
        Self { failed: vec![text], ..Self::default() }
    }

    /// Creates the result of a step whose programs have no row.
    pub fn programs(ran: usize) -> Self {
        Self { ran, ..Self::default() }
    }

    /// Adds the result of another step, and merges the rows of an engine.
    pub fn add(&mut self, other: Self) {
        for row in other.rows {
            match self.rows.iter_mut().find(|own| own.is_of_same_engine(&row)) {
                Some(own) => own.merge(row),
                None => self.rows.push(row),
            }
        }
        self.written.extend(other.written);
        self.failed.extend(other.failed);
        self.ran += other.ran;
    }
}

/// Context for running tests on engines.
#[derive(Debug, Clone, Copy)]
pub struct EngineRun<'a> {
    pub site: &'a Site,
    pub guard: &'a Guard,
    pub binaries: &'a [Binary],
    pub parts: &'a [Part],
    pub matrix: bool,
    pub cases: &'a Cases,
}

impl EngineRun<'_> {
    /// Runs a part on each of its engines, in order.
    pub fn part(&self, part: Part, programs: Programs, output: &Output) -> StepResult {
        let mut all = StepResult::default();
        for (at, engine) in part.engines(self.matrix).iter().enumerate() {
            let work = || self.engine(*engine, part, programs, at == 0, output);
            match output.timed(engine.name(), work) {
                Ok(tested) => all.add(tested),
                Err(error) => all.failed.push(format!("{engine}: {error:#}")),
            }
        }
        all
    }

    /// Returns true if a part runs the programs that run once per backend, which is the backend's
    /// first part.
    fn is_first_of_backend(&self, part: Part) -> bool {
        self.parts.iter().find(|other| other.package() == part.package()) == Some(&part)
    }

    fn engine(
        &self,
        engine: Engine,
        part: Part,
        programs: Programs,
        is_first: bool,
        output: &Output,
    ) -> Result<StepResult> {
        let Self { site, guard, matrix, .. } = *self;
        let binaries: Vec<_> = self
            .binaries
            .iter()
            .filter(|binary| {
                binary.is_integration
                    && programs.include(&binary.name)
                    && binary.name != unit::FAKE
                    && (matrix || !MATRIX_ONLY.contains(&binary.name.as_str()))
                    && (part.package() == Some(binary.package.as_str())
                        || part.command_line() == Some(binary.package.as_str()))
            })
            .collect();
        ensure!(
            binaries.iter().any(|binary| [CONFORMANCE, FAULTS].contains(&binary.name.as_str())),
            "{} has no tests on engines, or they failed to build",
            part.package().unwrap_or_default()
        );
        let started = guard.up(engine)?;
        let running = site.status(engine).context("the engine has stopped")?;
        std::fs::create_dir_all(reports())?;
        // The first row is for programs without a row of their own.
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
                    let Some(mut command) = self.cases.command_for_standard_harness(binary)? else {
                        continue;
                    };
                    // The harness reports durations on stable Rust only with these options.
                    command
                        .env("RUSTC_BOOTSTRAP", "1")
                        .args(["-Zunstable-options", "--report-time"]);
                    if let Some(threads) = part.fault_threads() {
                        command.arg(format!("--test-threads={threads}"));
                    }
                    command
                }
                _ => self.cases.command_for_custom_harness(binary),
            };
            if again {
                command.args(FAULTS_WITHOUT_ENGINE.iter().flat_map(|module| ["--skip", module]));
            }
            command.envs(running.variables()?).env("RUNTIME_TEST_REPORT", &report);
            if matrix {
                command.env("RUNTIME_TEST_MATRIX", "1");
            } else {
                let is_first = is_first && self.is_first_of_backend(part);
                command.env("RUNTIME_TEST_LEAVE_OUT", leave_out(&binary.name, is_first));
            }
            let title = format!("{} on {engine} {}", binary.name, running.version());
            let outcome = report::run(guard, output, &mut command, &report, &title)?;
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
        if started && programs != Programs::ButFaults {
            guard.down(engine)?;
        }
        Ok(StepResult { rows, written, ..StepResult::default() })
    }
}

/// Returns the directory of the test programs' reports.
fn reports() -> PathBuf {
    root().join("target/reports")
}

fn report_path(engine: Engine, binary: &str) -> PathBuf {
    reports().join(format!("{engine}-{binary}.json"))
}
