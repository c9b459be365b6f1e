//! The capabilities of the connected engine.

use std::time::Duration;

use runtime_core::Capabilities;

use super::engine::{Engine, Flavour};
use super::spec;

/// Returns the capabilities of an engine of this kind, version and configuration.
pub(crate) fn capabilities(engine: &Engine) -> Capabilities {
    let docker = engine.flavour == Flavour::Docker;
    let info = &engine.info;
    // Without cgroups an engine (mostly a rootless one) accepts every limit and applies none.
    let limits = info.cgroup_driver != "none";

    let mut can = Capabilities::default();
    can.pull_image = true;
    // Podman only reports whole layers.
    can.pull_progress = docker;
    can.env_names = true;
    can.env_unset = docker;
    can.memory_limit = limits && info.memory_limit;
    can.shared_memory = true;
    can.cpu_count = limits && info.cpu_cfs_quota;
    can.cpu_shares = limits && info.cpu_shares;
    // Podman accepts a request for a GPU and creates the container without it.
    can.gpus_by_id = docker && (info.has_nvidia_runtime() || info.has_nvidia_cdi());
    can.gpus_by_count = docker && info.has_nvidia_runtime();
    can.user = true;
    can.user_name = true;
    can.group_name = true;
    can.image_group = true;
    can.supplementary_groups = true;
    can.working_dir = true;
    can.hostname = true;
    can.mounts = true;
    can.mounts_read_only = true;
    can.tcp_ports = true;
    can.oom_score_adj = true;
    can.interactive_stdin = true;
    can.terminal = true;
    can.stop_signal = true;
    can.stop_grace_override = true;
    can.stop_immediately = true;
    can.kill = true;
    // The kernel's log has the kills that Docker misses.
    can.oom_reason = engine.reports_out_of_memory() && can.memory_limit;
    can.wait = true;
    // Since 1.7 containerd drops the exit of a container that ended while it was down, and Docker
    // then reports 255.
    can.exit_while_away =
        !docker || engine.containerd.is_some_and(|containerd| containerd < [1, 7, 0]);
    can.logs = true;
    can.logs_streams_apart = true;
    can.logs_exact_bytes = spec::keeps_bytes(engine);
    can.logs_carriage_returns = true;
    can.logs_at_exit = !(docker && loses_last_output(engine.release()));
    can.logs_follow = true;
    can.stats_cpu = limits;
    // Podman, 5.8 included, does not report the page cache in it.
    can.stats_memory = limits && docker;
    can.stats_network = limits;
    can.stats_block_io = limits;
    can.bulk_stats = limits;
    can.empty_arguments = true;
    can.events = true;
    can.events_since = true;
    can.exec = true;
    can.exec_stdin_eof = true;
    can.exec_terminal = true;
    can.exec_user = true;
    can.exec_env = true;
    can.exec_working_dir = true;
    can.attach = true;
    can.attach_created = true;
    can.copy_in = true;
    can.copy_out = true;
    can.copy_stopped = true;
    can.reattach = true;
    can.reap = true;

    can.limits.stop_grace_unit = Some(Duration::from_secs(1));
    can.limits.log_time_unit = (!engine.has_exact_log_times()).then_some(Duration::from_secs(1));
    can.limits.minimum_memory = can.memory_limit.then_some(if docker {
        // "Minimum memory limit allowed is 6MB", in all engines since 20.10.
        6 << 20
    } else {
        // Podman has no minimum. runc needs just under 3 MiB to set up a container, so a lower limit
        // fails at random.
        4 << 20
    });
    can
}

/// Returns `true` if this Docker Engine can lose the last output of a container, because it closes
/// the pipes of an ended container before it has read them to the end.
///
/// 23.0 and most of 24.0 close them immediately at the end (moby#45689, docker/cli#4338,
/// containerd#8643). Later releases lose output less often: on a busy 26.1.5 the log of an `echo` was
/// empty, and the engine logged "reading from a closed fifo". In its sources and those of 28.5.2,
/// containerd's client cancels the opening of the pipes at the end, which matches.
fn loses_last_output(release: [u32; 3]) -> bool {
    release >= [23, 0, 0]
}
