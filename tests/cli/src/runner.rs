//! Selects the cases by the engine's capabilities, runs and reports them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use runtime_conformance::Requested;
use runtime_core::Capability;
use serde_json::{Value, json};

use crate::{Engine, Shell};

/// Variable with the path of the report.
const REPORT: &str = "RUNTIME_TEST_REPORT";

/// A case, which is the same on every engine with the required capabilities.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// The required capabilities. If the engine lacks one, the case is reported as ignored with its
    /// name.
    pub needs: &'static [Capability],
    /// The test in its own scope, which is cleaned up.
    pub body: fn(&Shell),
}

/// Defines the `main` of a test program from a list of functions of this file with their required
/// capabilities.
#[macro_export]
macro_rules! cases {
    ($($name:ident [$($need:ident),*];)*) => {
        fn main() -> std::process::ExitCode {
            cli_tests::run(&[$(cli_tests::Case {
                name: stringify!($name),
                needs: &[$(runtime_core::Capability::$need),*],
                body: $name,
            }),*])
        }
    };
}

const CONCURRENT_CASES: usize = 3;

/// Runs the cases on the engine of the environment. The exit code is not 0 if a case failed or the
/// engine is missing.
#[must_use]
pub fn run(cases: &[Case]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Cases are mostly idle. Names belong to the engine, not to a scope, so the cases use different
    // names.
    arguments.test_threads.get_or_insert(CONCURRENT_CASES);
    let engine = match Engine::of_environment() {
        Ok(engine) => Arc::new(engine),
        Err(error) => {
            eprintln!("failed to run the tests: {error}");
            return ExitCode::from(101);
        }
    };
    let report: Arc<Mutex<Report>> = Arc::default();
    let requested = match Requested::from_env() {
        Ok(requested) => requested,
        Err(error) => {
            eprintln!("failed to run the tests: {error}");
            return ExitCode::from(101);
        }
    };
    let wanted = cases.iter().filter(|case| requested.includes(case.name));
    let trials = wanted.map(|case| trial(*case, &engine, &report)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let (Some(path), false) = (std::env::var_os(REPORT), arguments.list) {
        let report = report.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = report.write(Path::new(&path)) {
            eprintln!("failed to write the report: {error}");
            return ExitCode::from(101);
        }
    }
    conclusion.exit_code()
}

#[derive(Debug, Default)]
struct Report {
    passed: usize,
    failed: Vec<&'static str>,
    ignored: Vec<Value>,
    /// The duration of each case in seconds.
    slowest: Vec<(&'static str, f64)>,
}

impl Report {
    fn write(&self, path: &Path) -> std::io::Result<()> {
        let Self { passed, failed, ignored, slowest } = self;
        let report = json!({
            "passed": passed,
            "failed": failed,
            "ignored": ignored,
            "slowest": slowest,
        });
        std::fs::write(path, report.to_string())
    }
}

fn trial(case: Case, engine: &Arc<Engine>, report: &Arc<Mutex<Report>>) -> Trial {
    let (engine, report) = (Arc::clone(engine), Arc::clone(report));
    Trial::ignorable_test(case.name, move || {
        let report = || report.lock().unwrap_or_else(PoisonError::into_inner);
        let can = engine.capabilities();
        if let Some(lacks) = case.needs.iter().find(|need| !can.has(**need)) {
            report().ignored.push(json!({ "case": case.name, "capability": lacks.name() }));
            return Ok(Completion::ignored_with(format!("lacks {lacks}")));
        }
        let body = AssertUnwindSafe(|| (case.body)(&Shell::new(&engine)));
        let begun = Instant::now();
        let outcome = catch_unwind(body);
        let mut report = report();
        report.slowest.push((case.name, begun.elapsed().as_secs_f64()));
        match outcome {
            Ok(()) => {
                report.passed += 1;
                Ok(Completion::Completed)
            }
            Err(panic) => {
                report.failed.push(case.name);
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                Err(Failed::from(text.unwrap_or_else(|| "it panicked".to_owned())))
            }
        }
    })
}
