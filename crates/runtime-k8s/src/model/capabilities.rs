//! Capabilities of a cluster.

use std::time::Duration;

use runtime_core::Capabilities;

use crate::options::{CpuShares, KubernetesOptions, StatsSource};

/// Properties of a server that were determined when it was connected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    /// Its version, for example `v1.36.2`.
    pub(crate) version: String,
    /// The minor version.
    pub(crate) minor: u32,
    /// Whether it serves the metrics API.
    pub(crate) metrics: bool,
    /// Warnings for the user.
    pub(crate) warnings: Vec<String>,
}

/// The first version in which the size of a volume in memory is its size limit, and not half of the
/// node's memory: the feature SizeMemoryBackedVolumes. It is a feature of the kubelet, but this is
/// the version of the API server. Kubelets may be some versions older, and a role in a namespace
/// does not show their versions.
const SIZED_MEMORY_VOLUMES_MINOR: u32 = 22;

/// The first version with scheduling gates that are on by default: PodSchedulingReadiness, beta in
/// 1.27.
const SCHEDULING_GATES_MINOR: u32 = 27;

/// The first version on whose nodes a pod that reaches its deadline keeps the exit codes of its
/// containers.
///
/// Measured: 1.20.2 loses them, 1.36.2 keeps them. kubernetes#108366 (1.24) changed kubelets to
/// report a final phase only after the containers have ended. Nodes may be two versions older than
/// a server of 1.27, so that all of its nodes have this change.
const DEADLINE_KEEPS_CODE_MINOR: u32 = 27;

impl Server {
    /// Returns whether the server has scheduling gates.
    pub(crate) const fn has_gates(&self) -> bool {
        self.minor >= SCHEDULING_GATES_MINOR
    }

    /// Returns whether an exit code outlives the deadline of its pod.
    pub(crate) const fn deadline_keeps_code(&self) -> bool {
        self.minor >= DEADLINE_KEEPS_CODE_MINOR
    }

    /// Returns the API of disruption budgets: `policy/v1` was added in 1.21, and `policy/v1beta1`
    /// removed in 1.25.
    pub(crate) fn policy_api(&self) -> &'static str {
        if self.minor >= 21 { "policy/v1" } else { "policy/v1beta1" }
    }
}

/// Returns the capabilities of a connection with these options.
pub(crate) fn capabilities(server: &Server, options: &KubernetesOptions) -> Capabilities {
    let proxy = options.stats == StatsSource::NodeProxy;
    let metrics = options.stats == StatsSource::MetricsApi && server.metrics;
    let mut can = Capabilities::default();
    can.deferred_pull = true;
    can.memory_limit = true;
    can.shared_memory = server.minor >= SIZED_MEMORY_VOLUMES_MINOR;
    can.cpu_count = true;
    can.cpu_shares = options.cpu_shares == CpuShares::AsRequest;
    can.gpus_by_count = options.gpu_resource.is_some();
    can.user = true;
    can.supplementary_groups = true;
    can.working_dir = true;
    can.hostname = true;
    can.mounts = true;
    can.mounts_read_only = true;
    can.tcp_ports = true;
    can.oom_score_adj = true;
    can.interactive_stdin = true;
    can.terminal = true;
    // The feature is alpha and off by default up to 1.36, so that the caller has to enable it here,
    // too.
    can.stop_signal = options.stop_signals;
    can.oom_reason = true;
    can.wait = true;
    can.exit_while_away = true;
    can.logs = true;
    can.logs_exact_bytes = true;
    // These two depend on the engines of the nodes, which are unknown.
    can.logs_carriage_returns = false;
    can.logs_at_exit = false;
    can.logs_follow = true;
    can.stats_cpu = proxy || metrics;
    can.stats_memory = proxy || metrics;
    can.stats_network = proxy;
    can.stats_block_io = proxy;
    can.bulk_stats = proxy || metrics;
    can.events = true;
    can.exec = true;
    // Sessions use version 5 of the WebSocket protocol, or SPDY.
    can.exec_stdin_eof = true;
    can.exec_terminal = true;
    can.attach = true;
    can.copy_in = true;
    can.copy_out = true;
    can.reattach = true;
    can.reap = true;
    // The kubelet uses whole seconds, and at least two: minimumGracePeriodInSeconds.
    can.limits.minimum_stop_grace = Some(Duration::from_secs(2));
    can.limits.stop_grace_unit = Some(Duration::from_secs(1));
    can
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::Scope;

    fn options() -> KubernetesOptions {
        KubernetesOptions::new(Scope::new("t").unwrap())
    }

    #[test]
    fn capabilities_depend_on_server_version() {
        let old = Server { minor: 20, ..Server::default() };
        let new = Server { minor: 36, metrics: true, ..Server::default() };
        let (old, new) = (capabilities(&old, &options()), capabilities(&new, &options()));
        assert!(!old.shared_memory && new.shared_memory);
        assert!(!old.stop_signal && !new.stop_signal);
        assert!(!old.stats_cpu && new.stats_cpu && !new.stats_network);
    }

    #[test]
    fn capabilities_depend_on_options() {
        let server = Server { minor: 30, ..Server::default() };
        let plain = capabilities(&server, &options());
        assert!(!plain.cpu_shares && !plain.stats_network && !plain.gpus_by_count);
        let more = options()
            .cpu_shares(CpuShares::AsRequest)
            .stats(StatsSource::NodeProxy)
            .stop_signals(true)
            .gpu_resource("nvidia.com/gpu");
        let more = capabilities(&server, &more);
        assert!(
            more.gpus_by_count
                && more.stop_signal
                && more.cpu_shares
                && more.stats_network
                && more.stats_block_io
                && more.bulk_stats
        );
    }
}
