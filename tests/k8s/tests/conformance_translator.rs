//! Sessions of the conformance suite over WebSockets, as current API servers accept them, on the cluster of
//! the environment.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;
use runtime_conformance::Focus;

/// Cases that open sessions; this program runs no others.
const SESSIONS: Focus = Focus::on(SESSION_CASES).at_most(SESSION_CASES);

const SESSION_CASES: &[&str] = &["exec::*", "attach::*", "files::*"];

fn main() -> ExitCode {
    runtime_conformance::run_focused(SESSIONS, KubernetesSubject::translator_from_env)
}
