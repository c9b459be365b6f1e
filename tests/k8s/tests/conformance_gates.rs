//! Lifecycle and stop of containers that a scheduling gate holds, on the cluster of the environment behind a
//! proxy that adds gates.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;
use runtime_conformance::Focus;

/// Cases that depend on how a container is held; this program runs no others.
const HOLDS: Focus = Focus::on(HOLD_CASES).at_most(HOLD_CASES);

const HOLD_CASES: &[&str] = &["lifecycle::*", "stop::*"];

fn main() -> ExitCode {
    runtime_conformance::run_focused(HOLDS, KubernetesSubject::gates_from_env)
}
