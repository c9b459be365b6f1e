//! Selection, execution and report of the cases.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use runtime_core::{Capabilities, Capability, Nonce, PullOptions, RuntimeExt as _, Scope};

use crate::failure::fail;
use crate::poll::lock;
use crate::selection::{Requested, Selection};
use crate::shared::SharedContainer;
use crate::{
    BoxError, Case, Context, Difference, Failure, Focus, Ignored, KnownDifference, LeftOut,
    Outcome, Report, Subject, cases, child, panics, twins,
};

/// Environment variable with the path of the report.
const REPORT: &str = "RUNTIME_TEST_REPORT";

/// Name of the requirement of cases that kill the engine. It is provided by the test setup, not by the
/// engine.
const ENGINE_CONTROL: &str = "engine_control";

/// Runs all cases on the subject that `make` returns, with the arguments of this process.
///
/// The exit code is not 0 if a case fails, or if the subject or its engine is not available.
pub fn run<S: Subject>(make: impl FnOnce() -> Result<S, BoxError>) -> ExitCode {
    run_focused(Focus::ALL, make)
}

/// Runs all cases that `focus` offers, like [`run`], for a program that reaches an engine in another way.
/// With `unfocused` in `RUNTIME_TEST_LEAVE_OUT` only the focus itself runs.
pub fn run_focused<S: Subject>(
    focus: Focus,
    make: impl FnOnce() -> Result<S, BoxError>,
) -> ExitCode {
    let mut arguments = Arguments::from_args();
    match try_run(&mut arguments, &focus, make) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("the suite cannot run: {failure}");
            ExitCode::from(101)
        }
    }
}

fn try_run<S: Subject>(
    arguments: &mut Arguments,
    focus: &Focus,
    make: impl FnOnce() -> Result<S, BoxError>,
) -> Result<ExitCode, Failure> {
    let selection = Selection::from_env()?;
    let requested = Requested::from_env().map_err(|error| Failure::new(error.to_string()))?;
    let tokio =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let subject: Arc<dyn Subject> =
        Arc::new(make().map_err(|error| Failure::new(error.to_string()))?);
    if let Some(scope) = child::scope() {
        tokio.block_on(child::run(&*subject, &scope))?;
        return Ok(ExitCode::SUCCESS);
    }
    let begun = Instant::now();
    let nonce = Nonce::random()?;
    let run = nonce.as_str()[..8].to_owned();
    let (mut report, capabilities) = tokio.block_on(meet(&*subject, &run, !arguments.list))?;
    let mut planned =
        plan(&cases::all(), &capabilities, &subject.differences(), subject.control().is_some())?;
    planned
        .retain(|planned| focus.offers(planned.case()) && requested.includes(planned.case().name));
    for planned in &mut planned {
        planned.leave_out(&selection, focus);
    }
    arguments.test_threads.get_or_insert(subject.parallelism());
    let shared = Arc::new(Shared {
        tokio: tokio.handle().clone(),
        subject,
        container: Arc::new(SharedContainer::new(Scope::new(format!("c-{run}-shared"))?)),
        run,
        alone: RwLock::default(),
        outcomes: Mutex::default(),
    });
    let trials =
        planned.into_iter().enumerate().map(|(at, planned)| trial(&shared, at, planned)).collect();
    let conclusion = libtest_mimic::run(arguments, trials);
    let cleaned = tokio.block_on(shared.container.clean());
    tokio.shutdown_timeout(std::time::Duration::from_secs(5));

    let Outcomes { passed, failed, ignored, left_out, differences, durations } =
        std::mem::take(&mut *lock(&shared.outcomes));
    report.passed = passed;
    report.failed = failed;
    if let Err(failure) = &cleaned {
        eprintln!("the container that the cases share: {failure}");
        report.failed.push("the shared container".to_owned());
    }
    report.ignored = ignored;
    report.left_out = left_out;
    report.differences = differences;
    report.seconds = begun.elapsed().as_secs_f64();
    report.finish(durations);
    if let (Some(path), false) = (std::env::var_os(REPORT), arguments.list) {
        report.write(&PathBuf::from(path))?;
    }
    Ok(if cleaned.is_ok() { conclusion.exit_code() } else { ExitCode::from(101) })
}

/// Connects to the engine, reads its version and pulls the images, so that no case spends time on the pulls.
async fn meet(
    subject: &dyn Subject,
    run: &str,
    pull: bool,
) -> Result<(Report, Capabilities), Failure> {
    let runtime = subject.connect(&Scope::new(format!("c-{run}"))?).await?;
    let health = runtime.health().await?;
    let capabilities = runtime.capabilities().clone();
    if pull && capabilities.pull_image {
        let (images, registry) = (subject.images(), subject.registry());
        for reference in [images.busybox, images.entry] {
            let auth = runtime_core::RegistryAuth::new(&registry.username, &registry.password);
            let image = runtime_core::Image::new(reference).auth(auth);
            runtime.pull(&image, PullOptions::default()).await?;
        }
    }
    runtime.close().await?;
    let report = Report {
        engine: subject.engine(),
        version: health.version,
        capabilities: health.capabilities,
        ..Report::default()
    };
    Ok((report, capabilities))
}

/// Plan for one case on this engine.
#[derive(Debug, Clone)]
enum Planned {
    Run(Case),
    Ignore(Case, &'static str),
    LeaveOut(Case, &'static str),
    Differ(Case, Difference),
}

impl Planned {
    fn case(&self) -> &Case {
        match self {
            Self::Run(case)
            | Self::Ignore(case, _)
            | Self::LeaveOut(case, _)
            | Self::Differ(case, _) => case,
        }
    }

    /// Applies the selection. A case that the engine ignores stays ignored, because that is the better
    /// reason.
    fn leave_out(&mut self, selection: &Selection, focus: &Focus) {
        if matches!(self, Self::Run(_) | Self::Differ(..))
            && let Some(reason) = selection.leaves_out(self.case(), focus)
        {
            *self = Self::LeaveOut(*self.case(), reason);
        }
    }
}

/// Plans every case, adds the twins of the missing capabilities and sorts: long cases first, exclusive cases
/// last.
fn plan(
    cases: &[Case],
    capabilities: &Capabilities,
    differences: &[Difference],
    control: bool,
) -> Result<Vec<Planned>, Failure> {
    let mut names = BTreeSet::new();
    if let Some(twice) = cases.iter().find(|case| !names.insert(case.name)) {
        fail!("two cases are called {}", twice.name);
    }
    if let Some(unknown) = differences.iter().find(|known| !names.contains(known.case)) {
        fail!("a difference is about {}, and there is no such case", unknown.case);
    }
    let missing: Vec<Capability> = capabilities.missing().collect();
    let mut planned: Vec<Planned> = cases
        .iter()
        .map(|case| {
            if let Some(lacks) = case.needs.iter().find(|need| missing.contains(need)) {
                Planned::Ignore(*case, lacks.name())
            } else if case.kills_engine && !control {
                Planned::Ignore(*case, ENGINE_CONTROL)
            } else if let Some(known) = differences.iter().find(|known| known.case == case.name) {
                Planned::Differ(*case, known.clone())
            } else {
                Planned::Run(*case)
            }
        })
        .collect();
    planned.extend(
        missing.into_iter().filter_map(|lacks| twins::of(lacks, capabilities)).map(Planned::Run),
    );
    planned.sort_by_key(|planned| {
        let case = planned.case();
        (case.exclusive, case.kills_engine)
    });
    Ok(spread_heavy(planned))
}

/// Spreads the heavy cases over the first half of the run: started all at once they only delay each other,
/// and a heavy case that starts last prolongs the run.
fn spread_heavy(planned: Vec<Planned>) -> Vec<Planned> {
    let is_heavy = |planned: &Planned| planned.case().heavy && matches!(planned, Planned::Run(_));
    let (heavy, others): (Vec<_>, Vec<_>) = planned.into_iter().partition(is_heavy);
    let distance = others.len() / (2 * heavy.len().max(1));
    let (mut heavy, mut spread) = (heavy.into_iter(), Vec::new());
    for (at, other) in others.into_iter().enumerate() {
        if at % distance.max(1) == 0 {
            spread.extend(heavy.next());
        }
        spread.push(other);
    }
    spread.extend(heavy);
    spread
}

struct Shared {
    tokio: tokio::runtime::Handle,
    subject: Arc<dyn Subject>,
    container: Arc<SharedContainer>,
    run: String,
    /// Locked for writing by an exclusive case, and for reading by every other.
    alone: RwLock<()>,
    outcomes: Mutex<Outcomes>,
}

#[derive(Default)]
struct Outcomes {
    passed: usize,
    failed: Vec<String>,
    ignored: Vec<Ignored>,
    left_out: Vec<LeftOut>,
    differences: Vec<KnownDifference>,
    durations: Vec<(String, f64)>,
}

fn trial(shared: &Arc<Shared>, at: usize, planned: Planned) -> Trial {
    let shared = Arc::clone(shared);
    Trial::ignorable_test(planned.case().name, move || {
        let (case, body) = match &planned {
            Planned::Ignore(case, lacks) => {
                let (case, capability) = (case.name.to_owned(), (*lacks).to_owned());
                lock(&shared.outcomes).ignored.push(Ignored { case, capability });
                return Ok(Completion::ignored_with(format!("lacks {lacks}")));
            }
            Planned::LeaveOut(case, reason) => {
                let (case, reason) = (case.name.to_owned(), (*reason).to_owned());
                let completion = Completion::ignored_with(reason.clone());
                lock(&shared.outcomes).left_out.push(LeftOut { case, reason });
                return Ok(completion);
            }
            Planned::Run(case) => (case, case.body),
            Planned::Differ(case, known) => (case, known.instead),
        };
        let case = Case { body, ..*case };
        let outcome = if case.exclusive {
            let _alone = shared.alone.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            execute(&shared, at, &case)
        } else {
            let _beside = shared.alone.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            execute(&shared, at, &case)
        };
        let mut outcomes = lock(&shared.outcomes);
        match outcome {
            Ok(()) => {
                outcomes.passed += 1;
                if let Planned::Differ(case, known) = &planned {
                    let (case, reason) = (case.name.to_owned(), known.reason.to_owned());
                    outcomes.differences.push(KnownDifference { case, reason });
                }
                Ok(Completion::Completed)
            }
            Err(failure) => {
                outcomes.failed.push(case.name.to_owned());
                Err(Failed::from(failure))
            }
        }
    })
}

/// Runs one case to its end and cleans up after it.
fn execute(shared: &Shared, at: usize, case: &Case) -> Outcome {
    let begun = Instant::now();
    let outcome = shared.tokio.block_on(async {
        let scope = Scope::new(format!("c-{}-{at}", shared.run))?;
        let (subject, container) = (Arc::clone(&shared.subject), Arc::clone(&shared.container));
        let context = Context::new(subject, scope, container).await?;
        let body = panics::caught((case.body)(context.clone()));
        let outcome = match tokio::time::timeout(case.limit, body).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let left = context.describe().await;
                Err(Failure::new(format!("no end after {:?}; at the engine: {left}", case.limit)))
            }
        };
        // A case that kills the engine may fail before it has started the engine again.
        if let (true, Err(_), Some(control)) =
            (case.kills_engine, &outcome, shared.subject.control())
        {
            control.start().await.map_err(|error| Failure::new(error.to_string()))?;
        }
        // The failure of the case has priority: leftovers are often a consequence of it.
        match (outcome, context.clean().await) {
            (Ok(()), cleaned) => cleaned,
            (Err(failure), Ok(())) => Err(failure),
            (Err(failure), Err(left)) => Err(Failure::new(format!("{failure}; and {left}"))),
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    lock(&shared.outcomes).durations.push((case.name.to_owned(), seconds));
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_but(missing: &[Capability]) -> Capabilities {
        let mut capabilities = Capabilities::default();
        for &capability in Capability::ALL {
            capabilities.set(capability, !missing.contains(&capability));
        }
        capabilities
    }

    const ONE: Case = Case::new("a::one", &[], |_| Box::pin(async { Ok(()) }));
    const WAITS: Case = Case::new("a::waits", &[Capability::Wait, Capability::Kill], |_| {
        Box::pin(async { Ok(()) })
    });
    const KILLS: Case = Case::new("a::kills", &[], |_| Box::pin(async { Ok(()) })).kills_engine();
    const HEAVY: Case = Case::new("a::heavy", &[], |_| Box::pin(async { Ok(()) })).heavy();

    fn names(planned: &[Planned]) -> Vec<&'static str> {
        planned.iter().map(|planned| planned.case().name).collect()
    }

    #[test]
    fn heavy_cases_are_spread_and_exclusive_ones_end() {
        let planned = plan(&[KILLS, ONE, HEAVY], &all_but(&[]), &[], true).unwrap();
        let (one, heavy) = ("a::one", "a::heavy");
        assert_eq!(names(&planned), [heavy, one, "a::kills"]);
        let run = |cases: &[Case]| spread_heavy(cases.iter().copied().map(Planned::Run).collect());
        let spread = run(&[ONE, ONE, ONE, ONE, HEAVY, ONE, ONE, ONE, HEAVY]);
        assert_eq!(names(&spread), [heavy, one, heavy, one, one, one, one, one, one]);
        assert_eq!(names(&run(&[HEAVY, HEAVY])), [heavy, heavy]);
    }

    #[test]
    fn a_missing_capability_ignores_the_case_and_brings_its_twin() {
        let planned = plan(&[ONE, WAITS], &all_but(&[Capability::Kill]), &[], true).unwrap();
        assert_eq!(names(&planned), ["a::one", "a::waits", "refused::kill"]);
        assert!(matches!(planned[0], Planned::Run(_)));
        assert!(matches!(planned[1], Planned::Ignore(_, "kill")));
        assert!(matches!(planned[2], Planned::Run(_)));
    }

    #[test]
    fn without_engine_control_nothing_is_killed() {
        let planned = plan(&[KILLS], &all_but(&[]), &[], false).unwrap();
        assert!(matches!(planned[0], Planned::Ignore(_, ENGINE_CONTROL)));
    }

    #[test]
    fn a_difference_takes_the_place_of_its_case_and_must_have_one() {
        let difference =
            |case| Difference { case, reason: "because", instead: |_| Box::pin(async { Ok(()) }) };
        let planned = plan(&[ONE], &all_but(&[]), &[difference("a::one")], true).unwrap();
        assert!(matches!(planned[0], Planned::Differ(..)));
        assert!(plan(&[ONE], &all_but(&[]), &[difference("a::other")], true).is_err());
    }

    #[test]
    fn names_are_unique_and_every_capability_is_shown() {
        let all = cases::all();
        plan(&all, &all_but(&[]), &[], true).unwrap();
        for &capability in Capability::ALL {
            assert!(
                all.iter().any(|case| case.needs.contains(&capability)),
                "no case shows the effect of {capability}"
            );
        }
        for case in &all {
            assert!(case.name.contains("::"), "{} is area::what", case.name);
            assert!(!case.name.starts_with("refused::"), "{} is a twin's name", case.name);
        }
    }
}
