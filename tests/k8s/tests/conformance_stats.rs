//! The part of the conformance suite that uses statistics, on the cluster of the environment, with the right
//! to read them through the nodes. All other cases run with exactly the Role.

use std::process::ExitCode;

use k8s_tests::KubernetesSubject;
use runtime_conformance::Focus;
use runtime_core::Capability;

/// Cases that use statistics.
const STATISTICS: Focus = Focus::on(&[
    "stats::*",
    // These have a part for engines with statistics.
    "lifecycle::everything_after_the_remove",
    "list::two_scopes_do_not_see_each_other",
])
.and_needing(&[Capability::StatsMemory])
.at_most(&["lifecycle::*", "list::*", "leaks::*"]);

fn main() -> ExitCode {
    runtime_conformance::run_focused(STATISTICS, KubernetesSubject::stats_from_env)
}
