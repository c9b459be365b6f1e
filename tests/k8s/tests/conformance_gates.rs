//! The life and the stop of containers that a scheduling gate holds, on the cluster of the
//! environment behind a proxy that has gates.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;

fn main() -> ExitCode {
    runtime_conformance::run_groups(&["lifecycle", "stop"], KubernetesSubject::gates_from_env)
}
