//! The sessions of the conformance suite over WebSockets, as the API servers of today take them, on
//! the cluster of the environment.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;

fn main() -> ExitCode {
    runtime_conformance::run_groups(
        &["exec", "attach", "files"],
        KubernetesSubject::translator_from_env,
    )
}
