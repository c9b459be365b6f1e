//! What of the conformance suite has to do with statistics, on the cluster of the environment, with
//! the right to read them through the nodes. Everything else runs with exactly the Role.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;

fn main() -> ExitCode {
    runtime_conformance::run_groups(
        &["stats", "lifecycle", "list", "leaks"],
        KubernetesSubject::stats_from_env,
    )
}
