//! Conformance suite on the one node of the cluster of the environment, whose container engine serves the
//! containers that its kubelet has created.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;
use runtime_conformance::Focus;
use runtime_core::Capability;

/// Cases that use the node's engine: logs, statistics, signals and stops.
const THROUGH_THE_ENGINE: Focus = Focus::on(&[
    "logs::*",
    "follow::*",
    "stats::*",
    "stop::*",
    "refused::*",
    // These have a part for engines with signals or statistics.
    "lifecycle::everything_after_the_remove",
    "list::two_scopes_do_not_see_each_other",
])
.and_needing(&[Capability::Kill, Capability::StopImmediately, Capability::StopGraceOverride]);

fn main() -> ExitCode {
    runtime_conformance::run_focused(THROUGH_THE_ENGINE, KubernetesSubject::node_from_env)
}
