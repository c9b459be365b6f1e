//! The sessions of the conformance suite over WebSockets, on the cluster of the environment.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;

fn main() -> ExitCode {
    runtime_conformance::run_groups(
        &["exec", "attach", "files"],
        KubernetesSubject::websocket_from_env,
    )
}
