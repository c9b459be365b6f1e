//! Conformance suite on the cluster of the environment, with exactly the Role.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;

fn main() -> ExitCode {
    runtime_conformance::run(KubernetesSubject::from_env)
}
