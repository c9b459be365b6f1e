//! What a connected engine can do.

use std::time::Duration;

use runtime_core::Capabilities;
use runtime_support::version_numbers;

use crate::client::engine::Engine;

/// Where the engine is, as far as this process can prove it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EnginePlace {
    /// Whether this process may do what only root may.
    pub(crate) root: bool,
    /// Whether a PID of the engine is that of the same process here.
    pub(crate) shares_pids: bool,
    /// Whether the engine's mount namespace can be entered.
    pub(crate) sees_mounts: bool,
    /// Whether the kernel of this host lists the children of a process.
    pub(crate) lists_children: bool,
}

/// Returns the capabilities by the engine's version and its place. What differs between engines is true
/// for versions of containerd, and for CRI-O if its 1.34 was seen to do it; any other engine is
/// taken for one that cannot.
pub(crate) fn of(engine: &Engine, place: &EnginePlace, logs: bool) -> Capabilities {
    let version = version_numbers(&engine.version);
    let (containerd, crio) = (engine.name == "containerd", engine.is_crio());
    // Signals go to the process itself, which has to be seen from here.
    let EnginePlace { root, shares_pids, sees_mounts, lists_children } = *place;
    let signals = root && shares_pids;
    let here = sees_mounts;

    let mut can = Capabilities::default();
    can.pull_image = true;
    can.env_names = true;
    can.memory_limit = true;
    // A file system is mounted for it.
    can.shared_memory = root && here;
    can.cpu_count = true;
    can.cpu_shares = true;
    // containerd 1.7 takes CDI devices only where its configuration says so, and is silent about
    // them otherwise; later versions take them unless it says no.
    can.gpus_by_id = containerd && version >= [1, 7, 0] && engine.cdi == Some(true);
    can.user = true;
    can.user_name = true;
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
    can.stop_signal = signals;
    can.stop_grace_override = true;
    // CRI-O sends the stop signal first, so the kill has to come from here.
    can.stop_immediately = !crio || signals;
    can.kill = signals;
    // The engine says so, and the log of the kernel where the engine has missed it.
    can.oom_reason = true;
    can.wait = true;
    // containerd throws away from 1.7 on what ended while it was down. For CRI-O, conmon writes it
    // down.
    can.exit_while_away = crio || (containerd && version < [1, 7, 0]);
    can.logs = logs;
    can.logs_streams_apart = logs;
    can.logs_exact_bytes = logs;
    // containerd takes one for a part of the line end, CRI-O does not.
    can.logs_carriage_returns = logs && crio;
    can.logs_at_exit = logs && containerd && drains_at_exit(version);
    can.logs_follow = logs;
    can.stats_cpu = true;
    can.stats_memory = true;
    // Both are read from the kernel.
    can.stats_network = signals;
    can.stats_block_io = signals;
    can.bulk_stats = true;
    // The image's entrypoint takes the place of the command, and only containerd was seen to tell it.
    can.empty_arguments = containerd;
    can.events = true;
    can.events_since = true;
    can.exec = true;
    can.exec_stdin_eof = true;
    can.exec_terminal = true;
    // The process is found among those that containerd's helper has put into the container, under a
    // lock that lies beside the log.
    can.exec_signal = containerd && signals && logs && lists_children;
    can.exec_descendants = can.exec_signal;
    can.attach = true;
    // Through the container's own tar.
    can.copy_in = true;
    can.copy_out = true;
    can.reattach = true;
    can.reap = true;
    // runc itself needs about 2 MiB before the container's process is there, and does not start
    // below that; this is the least that Docker takes for the same reason. CRI-O has a least of its
    // own.
    can.limits.minimum_memory = Some(if crio { 12 << 20 } else { 6 << 20 });
    can.limits.stop_grace_unit = Some(Duration::from_secs(1));
    can
}

/// Whether the engine's stream of events can be listened to beside others. containerd 1.7 gives
/// each event to one of its listeners, and goes on giving to those that have left.
pub(crate) fn has_events(engine: &Engine) -> bool {
    let version = version_numbers(&engine.version);
    (engine.name == "containerd" && version >= [2, 0, 0])
        || (engine.name == "cri-o" && version >= [1, 26, 0])
}

/// Whether a container whose user only the image names has that user's groups. containerd gave it those
/// of root before 1.6.22 and 1.7.3 (containerd#8136).
pub(crate) fn has_groups_of_image(engine: &Engine) -> bool {
    let version = version_numbers(&engine.version);
    engine.name != "containerd"
        || ([1, 6, 22]..[1, 7, 0]).contains(&version)
        || version >= [1, 7, 3]
}

/// Whether this containerd reads the pipes of a container that has ended to their end. From 1.5.8
/// and 1.6.0 on it closed them first (containerd#5974), which lost up to what a pipe holds, until
/// 1.6.22 and 1.7.3 (containerd#8643).
fn drains_at_exit(version: [u32; 3]) -> bool {
    version < [1, 5, 8] || ([1, 6, 22]..[1, 7, 0]).contains(&version) || version >= [1, 7, 3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_versions_lose_last_words() {
        for (version, keeps) in [
            ("1.5.7", true),
            ("1.5.8", false),
            ("1.6.20~ds1", false),
            ("1.6.22", true),
            ("1.7.2", false),
            ("1.7.24~ds1", true),
            ("2.1.9", true),
        ] {
            assert_eq!(drains_at_exit(version_numbers(version)), keeps, "{version}");
        }
    }

    #[test]
    fn some_versions_give_the_groups_of_root() {
        for (name, version, right) in [
            ("containerd", "1.5.18", false),
            ("containerd", "1.6.20~ds1", false),
            ("containerd", "1.6.22", true),
            ("containerd", "1.7.2", false),
            ("containerd", "1.7.24~ds1", true),
            ("containerd", "2.1.9", true),
            ("cri-o", "1.30.0", true),
        ] {
            let (name, version, api_version) = (name.into(), version.into(), "v1".into());
            let engine = Engine { name, version, api_version, cdi: None };
            assert_eq!(has_groups_of_image(&engine), right, "{engine}");
        }
    }

    #[test]
    fn cdi_comes_with_the_version() {
        let gpus = |name: &str, version: &str, cdi: Option<bool>| {
            let (name, version, api_version) = (name.into(), version.into(), "v1".into());
            of(&Engine { name, version, api_version, cdi }, &EnginePlace::default(), true)
                .gpus_by_id
        };
        assert!(!gpus("containerd", "1.6.20", None));
        assert!(!gpus("containerd", "1.6.20", Some(true)));
        assert!(!gpus("containerd", "1.7.0", Some(false)));
        assert!(gpus("containerd", "1.7.0", Some(true)));
        assert!(gpus("containerd", "2.1.9", Some(true)));
        assert!(!gpus("something", "9.9", Some(true)));
    }

    #[test]
    fn what_was_seen_on_containerd_alone_is_false_elsewhere() {
        let can = |name: &str| {
            let (name, version, api_version) = (name.into(), "1.30.0".into(), "v1".into());
            let engine = Engine { name, version, api_version, cdi: Some(true) };
            of(&engine, &EnginePlace::default(), true)
        };
        assert!(can("containerd").gpus_by_id && can("containerd").logs_at_exit);
        assert!(can("containerd").empty_arguments);
        let crio = can("cri-o");
        assert!(!crio.gpus_by_id && !crio.logs_at_exit);
        assert!(!crio.exec_signal && !crio.empty_arguments);
        assert!(crio.exit_while_away && crio.logs_carriage_returns);
        assert!(!crio.stop_immediately, "its stop signal comes first, and no kill from here");
        assert_eq!(crio.limits.minimum_memory, Some(12 << 20));
        let other = can("another");
        assert!(!other.exit_while_away && !other.logs_carriage_returns);
    }

    #[test]
    fn what_takes_this_host_is_false_where_the_engine_is_not_seen() {
        let engine = Engine {
            name: "containerd".into(),
            version: "2.1".into(),
            api_version: "v1".into(),
            cdi: None,
        };
        let place = EnginePlace { root: true, ..EnginePlace::default() };
        let can = of(&engine, &place, false);
        assert!(!can.kill && !can.shared_memory && !can.logs && !can.stats_block_io);
        assert!(can.wait && can.stats_cpu);
    }
}
