//! The conformance suite on the one node of the cluster of the environment, whose container engine
//! is spoken to for what its kubelet has made.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;

/// What does not go the same way as for the whole cluster. The rest is asked for too where every
/// version of every engine is (`cargo xtask test k8s --matrix`).
const OTHERWISE: &[&str] =
    &["lifecycle", "wait", "logs", "follow", "stats", "stop", "recovery", "leaks", "refused"];

fn main() -> ExitCode {
    let groups = if std::env::var_os("RUNTIME_TEST_MATRIX").is_some() { &[] } else { OTHERWISE };
    runtime_conformance::run_groups(groups, KubernetesSubject::node_from_env)
}
