//! `cargo xtask test`: runs all tests on real engines, and prints a table at the end.

pub mod binaries;
mod cases;
mod engine_run;
mod lanes;
pub mod output;
mod part;
mod report;
pub mod unit;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use test_engines::{Engine, Site};

use crate::guard::Guard;
use crate::readme;
use binaries::Binary;
pub use cases::Cases;
use engine_run::{EngineRun, Programs, StepResult};
use output::Output;
use part::{PARTS_DEFAULT, Part};
use report::Row;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Parts to test (all by default)
    parts: Vec<Part>,
    /// Runs only cases whose names match this pattern (`stop::*`); may be repeated
    #[arg(long = "case", value_name = "PATTERN")]
    cases: Vec<String>,
    /// Tests every available version of each engine, not only the machine's own, and runs all cases
    #[arg(long)]
    matrix: bool,
    /// Runs one part at a time instead of two
    #[arg(long)]
    one_at_a_time: bool,
    /// Leaves the engines running
    #[arg(long)]
    keep: bool,
    /// Writes the capabilities of the engines to docs/capabilities.md, instead of comparing them
    #[arg(long)]
    write_readme: bool,
}

/// Package with the tests of the engines themselves.
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
        true => PARTS_DEFAULT.to_vec(),
        false => arguments.parts.clone(),
    };
    let plain = Output::plain();
    let build = plain.timed("build", || binaries::build(guard, binaries::ALL))?;
    let engines = EngineRun {
        site,
        guard,
        binaries: &build.binaries,
        parts: &parts,
        matrix: arguments.matrix,
        cases,
    };
    if parts.iter().any(|part| part.package().is_some()) {
        plain.timed("registry", || guard.up(Engine::Registry).map(drop))?;
    }
    let own_cluster = arguments.matrix || arguments.parts.contains(&Part::Engines);
    let steps = steps(&parts, cases, own_cluster);
    let lanes = if arguments.one_at_a_time || steps.len() == 1 { 1 } else { CONCURRENT_STEPS };
    let mut all = StepResult::default();
    for tested in lanes::run(&steps, lanes, Step::conflicts, |step| {
        let output = if lanes == 1 { Output::plain() } else { Output::of(step.name()) };
        let done = output.timed(step.name(), || step.run(&engines, &output));
        done.unwrap_or_else(|error| StepResult::failure(format!("{}: {error:#}", step.name())))
    }) {
        all.add(tested);
    }
    let StepResult { mut rows, written, mut failed, ran } = all;
    if !build.complete {
        failed.push("failed to build the workspace".to_owned());
    }
    if !written.is_empty() {
        let table = readme::take_reports(&written, !arguments.write_readme);
        failed.extend(table.err().map(|error| format!("{error:#}")));
    }
    if !cases.is_all() {
        rows.retain(|row| !row.is_empty());
        ensure!(ran + rows.len() + failed.len() > 0, "no case matches the pattern");
    }
    if !rows.is_empty() {
        print!("\n{}\nslowest cases:\n{}", report::table(&rows), report::slowest(&rows));
    }
    // Another row may skip a selected case.
    let may_be_left_out = !cases.is_all() && rows.iter().any(Row::has_passed);
    failed.extend(rows.iter().flat_map(|row| row.faults(may_be_left_out)));
    for fault in &failed {
        println!("FAILED: {fault}");
    }
    ensure!(failed.is_empty(), "{} failed", failed.len());
    Ok(())
}

/// Number of concurrent steps. Two keep two cores busy while one of them waits for its engine.
const CONCURRENT_STEPS: usize = 2;

/// Unit of scheduling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Unit,
    Documentation,
    /// A test program of the engines themselves.
    Engines(&'static str),
    /// A part, without the programs that have a step of their own.
    Part(Part),
    /// The fault tests of a cluster. They are mostly idle, so other steps run beside them.
    ClusterFaults,
}

/// Test program of the engines that starts its own cluster.
const OWN_CLUSTER: &str = "kubernetes";

/// Test program of the engines that starts each engine in a directory of its own.
const LEAVES_NOTHING: &str = "leaves_nothing";

/// Returns the steps of these parts in starting order. `own_cluster` adds the program that starts
/// its own cluster.
fn steps(parts: &[Part], cases: &Cases, own_cluster: bool) -> Vec<Step> {
    let has = |part: &Part| parts.contains(part);
    let mut steps = Vec::new();
    if has(&Part::Engines) && cases.is_all() {
        steps.push(Step::Engines(LEAVES_NOTHING));
    }
    if has(&Part::Unit) {
        steps.push(Step::Unit);
    }
    // The longest part starts first; parts that conflict with it run beside its faults.
    if has(&Part::K8s) {
        steps.extend([Step::Part(Part::K8s), Step::ClusterFaults]);
    }
    let others = [Part::Docker, Part::Cri, Part::Podman];
    steps.extend(others.into_iter().filter(has).map(Step::Part));
    // Conflicts with nothing, and therefore fills idle time.
    if has(&Part::Unit) && cases.is_all() {
        steps.push(Step::Documentation);
    }
    if own_cluster && has(&Part::K8s) && cases.is_all() {
        steps.push(Step::Engines(OWN_CLUSTER));
    }
    steps
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Documentation => "documentation",
            Self::Engines(OWN_CLUSTER) => "own-cluster",
            Self::Engines(_) => "engines",
            Self::Part(Part::K8s) => "k8s",
            Self::Part(Part::Cri) => "cri",
            Self::Part(Part::Podman) => "podman",
            Self::Part(_) => "docker",
            Self::ClusterFaults => "k8s-faults",
        }
    }

    /// Returns true if two steps must not run concurrently.
    fn conflicts(&self, other: &Self) -> bool {
        self.disturbs(other) || other.disturbs(self)
    }

    fn disturbs(&self, other: &Self) -> bool {
        match self {
            // The program restores the host's settings from before its engines.
            Self::Engines(LEAVES_NOTHING) => {
                matches!(other, Self::Engines(_) | Self::Part(_) | Self::ClusterFaults)
            }
            // A host is a node of one cluster at a time, and its kernel has one packet filter.
            Self::Engines(_) => {
                matches!(
                    other,
                    Self::Engines(_) | Self::ClusterFaults | Self::Part(Part::K8s | Part::Podman)
                )
            }
            // The faults use the same cluster afterwards, and Podman stops responding beside a busy
            // cluster on two cores.
            Self::Part(Part::K8s) => {
                matches!(other, Self::ClusterFaults | Self::Part(Part::Podman))
            }
            _ => false,
        }
    }

    fn run(&self, engines: &EngineRun<'_>, output: &Output) -> Result<StepResult> {
        let EngineRun { guard, binaries, cases, .. } = *engines;
        match self {
            Self::Unit => unit::run(guard, binaries, cases, output).map(StepResult::programs),
            Self::Documentation => {
                unit::documentation(guard, output).map(|()| StepResult::programs(1))
            }
            Self::Engines(name) => {
                let is_it = |binary: &&Binary| binary.package == ENGINES && binary.name == *name;
                let binary = binaries.iter().find(is_it);
                let binary = binary.with_context(|| format!("{ENGINES} has no {name}"))?;
                let mut command = binary.command();
                if engines.matrix {
                    command.env("RUNTIME_TEST_MATRIX", "1");
                }
                output.run(guard, &mut command).map(|()| StepResult::programs(1))
            }
            Self::Part(Part::K8s) => Ok(engines.part(Part::K8s, Programs::ButFaults, output)),
            Self::Part(part) => Ok(engines.part(*part, Programs::All, output)),
            Self::ClusterFaults => Ok(engines.part(Part::K8s, Programs::Faults, output)),
        }
    }
}

/// Formats the time since `begun`.
fn minutes(begun: Instant) -> String {
    let seconds = begun.elapsed().as_secs();
    format!("{} min {} s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_step_and_selected_cases_skip_unit_tests() {
        let all = steps(PARTS_DEFAULT, &Cases::default(), true);
        assert_eq!(all.len(), 9);
        assert_eq!(all[0], Step::Engines(LEAVES_NOTHING));
        assert_eq!(all[8], Step::Engines(OWN_CLUSTER));
        assert_eq!(steps(PARTS_DEFAULT, &Cases::default(), false), all[..8]);
        let some = Cases::parse(&["stop::*".to_owned()]).unwrap();
        let few = [Part::Docker, Part::Engines];
        assert_eq!(steps(&few, &some, true), [Step::Part(Part::Docker)]);
    }

    #[test]
    fn steps_that_share_host_settings_conflict() {
        let [k8s, podman, docker] = [Part::K8s, Part::Podman, Part::Docker].map(Step::Part);
        let [cluster, nothing] = [OWN_CLUSTER, LEAVES_NOTHING].map(Step::Engines);
        assert!(k8s.conflicts(&podman) && podman.conflicts(&k8s));
        assert!(k8s.conflicts(&Step::ClusterFaults) && cluster.conflicts(&Step::ClusterFaults));
        assert!(!podman.conflicts(&Step::ClusterFaults));
        // The faults must start after their part, which waits for it.
        assert!(nothing.conflicts(&k8s) && nothing.conflicts(&Step::ClusterFaults));
        assert!(k8s.conflicts(&cluster) && podman.conflicts(&cluster));
        assert!(docker.conflicts(&nothing) && cluster.conflicts(&nothing));
        assert!(!k8s.conflicts(&docker) && !podman.conflicts(&docker));
        assert!(!nothing.conflicts(&Step::Unit) && !cluster.conflicts(&docker));
    }
}
