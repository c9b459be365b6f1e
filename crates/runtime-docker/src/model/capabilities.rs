//! What the engine at the other end can do.

use std::time::Duration;

use runtime_core::Capabilities;

use super::engine::{Engine, Flavour};
use super::spec;

/// What an engine of this kind, version and configuration can do.
pub(crate) fn capabilities(engine: &Engine) -> Capabilities {
    let docker = engine.flavour == Flavour::Docker;
    let info = &engine.info;
    // Without cgroups an engine (rootless, mostly) takes every limit and applies none.
    let limits = info.cgroup_driver != "none";

    let mut can = Capabilities::default();
    can.pull_image = true;
    // Podman tells of whole layers only.
    can.pull_progress = docker;
    can.env_names = true;
    can.env_unset = docker;
    can.memory_limit = limits && info.memory_limit;
    can.shared_memory = true;
    can.cpu_count = limits && info.cpu_cfs_quota;
    can.cpu_shares = limits && info.cpu_shares;
    // Podman takes the request for a GPU and makes the container without.
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
    // The log of the kernel has the kills that Docker has missed.
    can.oom_reason = engine.reports_out_of_memory() && can.memory_limit;
    can.wait = true;
    // Newer ones throw away what ended while they were down, and Docker then says 255.
    can.exit_while_away =
        !docker || engine.containerd.is_some_and(|containerd| containerd < [1, 7, 0]);
    can.logs = true;
    can.logs_streams_apart = true;
    can.logs_exact_bytes = spec::keeps_bytes(engine);
    can.logs_carriage_returns = true;
    can.logs_at_exit = !(docker && loses_last_words(engine.release()));
    can.logs_follow = true;
    can.stats_cpu = limits;
    // Podman, 5.8 included, does not say what of it is page cache.
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
        // "Minimum memory limit allowed is 6MB": of all engines from 20.10 on.
        6 << 20
    } else {
        // Podman sets none. What runc needs to set a container up was seen to be just under
        // 3 MiB, so that less fails by chance.
        4 << 20
    });
    can
}

/// Whether this Docker Engine can close the pipes of a container that has ended before it has read
/// them to their end.
///
/// In 23.0 and most of 24.0 it closes them as soon as the container has ended, whatever is left in them
/// (moby#45689, docker/cli#4338, containerd#8643). Later ones lost less, and were seen to lose: on a busy
/// 26.1.5 an `echo` had an empty log, and the engine's own said "reading from a closed fifo". Its sources
/// and those of 28.5.2 have containerd's client cancel the opening of the pipes at the end, which fits.
fn loses_last_words(release: [u32; 3]) -> bool {
    release >= [23, 0, 0]
}
