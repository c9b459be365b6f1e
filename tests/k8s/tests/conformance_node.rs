//! The conformance suite on the one node of the cluster of the environment, whose container engine
//! is spoken to for what its kubelet has made.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;

fn main() -> ExitCode {
    runtime_conformance::run(KubernetesSubject::node_from_env)
}
