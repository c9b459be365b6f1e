//! Capabilities of an engine, from its version and its location.

use std::time::Duration;

use runtime_core::Capabilities;
use runtime_support::version_numbers;

use crate::client::engine::Engine;

/// Location of the engine, as far as this process can prove it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EngineLocation {
    /// Whether this process is root.
    pub(crate) root: bool,
    /// Whether the engine and this process share the PID namespace.
    pub(crate) shares_pids: bool,
    /// Whether this process can enter the mount namespace of the engine.
    pub(crate) sees_mounts: bool,
    /// Whether the kernel of this host lists the children of a process.
    pub(crate) lists_children: bool,
}

/// Returns the capabilities of an engine. A capability that differs between engines is true for
/// some versions of containerd, and for CRI-O if a test of its 1.34 showed it. It is false for
/// other engines.
pub(crate) fn of(engine: &Engine, location: &EngineLocation, logs: bool) -> Capabilities {
    let version = version_numbers(&engine.version);
    let (containerd, crio) = (engine.name == "containerd", engine.is_crio());
    // Signals are sent to the process, which must be visible to this one.
    let EngineLocation { root, shares_pids, sees_mounts, lists_children } = *location;
    let signals = root && shares_pids;
    let here = sees_mounts;

    let mut can = Capabilities::default();
    can.pull_image = true;
    can.env_names = true;
    can.memory_limit = true;
    // A file system is mounted for the container.
    can.shared_memory = root && here;
    can.cpu_count = true;
    can.cpu_shares = true;
    // containerd 1.7 ignores CDI devices unless its configuration enables them; later versions
    // enable them by default.
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
    // CRI-O sends the stop signal first, so this library has to kill the process.
    can.stop_immediately = !crio || signals;
    can.kill = signals;
    // From the engine, or from the kernel log if the engine has missed it.
    can.oom_reason = true;
    can.wait = true;
    // containerd from 1.7 on discards exits that happen while it is down. For CRI-O, conmon records
    // them.
    can.exit_while_away = crio || (containerd && version < [1, 7, 0]);
    can.logs = logs;
    can.logs_streams_apart = logs;
    can.logs_exact_bytes = logs;
    // containerd treats a carriage return as a part of the line end, CRI-O does not.
    can.logs_carriage_returns = logs && crio;
    can.logs_at_exit = logs && containerd && drains_at_exit(version);
    can.logs_follow = logs;
    can.stats_cpu = true;
    can.stats_memory = true;
    // Both are read from files of the kernel.
    can.stats_network = signals;
    can.stats_block_io = signals;
    can.bulk_stats = true;
    // The entrypoint of the image replaces the command, and only containerd returns it.
    can.empty_arguments = containerd;
    can.events = true;
    can.events_since = true;
    can.exec = true;
    can.exec_stdin_eof = true;
    can.exec_terminal = true;
    // The process is found among the children of containerd's shim, under a lock beside the log.
    can.exec_signal = containerd && signals && logs && lists_children;
    can.exec_descendants = can.exec_signal;
    can.attach = true;
    // The container's own tar copies.
    can.copy_in = true;
    can.copy_out = true;
    can.reattach = true;
    can.reap = true;
    // runc needs about 2 MiB before it starts the process of the container, and fails with less.
    // This is the minimum of Docker, for the same reason. CRI-O has a minimum of its own.
    can.limits.minimum_memory = Some(if crio { 12 << 20 } else { 6 << 20 });
    can.limits.stop_grace_unit = Some(Duration::from_secs(1));
    can
}

/// Returns whether each client of the engine gets all events. containerd 1.7 sends each event to
/// one client only, also to clients that have disconnected.
pub(crate) fn has_events(engine: &Engine) -> bool {
    let version = version_numbers(&engine.version);
    (engine.name == "containerd" && version >= [2, 0, 0])
        || (engine.name == "cri-o" && version >= [1, 26, 0])
}

/// Returns whether a container has the groups of its user if only the image sets the user.
/// containerd before 1.6.22 and 1.7.3 gives it those of root (containerd#8136).
pub(crate) fn has_groups_of_image(engine: &Engine) -> bool {
    let version = version_numbers(&engine.version);
    engine.name != "containerd"
        || ([1, 6, 22]..[1, 7, 0]).contains(&version)
        || version >= [1, 7, 3]
}

/// Returns whether this version of containerd reads the pipes of an exited container to their end.
/// From 1.5.8 and 1.6.0 on it closed them first (containerd#5974), and lost up to the content of a
/// pipe, until 1.6.22 and 1.7.3 (containerd#8643).
fn drains_at_exit(version: [u32; 3]) -> bool {
    version < [1, 5, 8] || ([1, 6, 22]..[1, 7, 0]).contains(&version) || version >= [1, 7, 3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drains_at_exit_depends_on_version() {
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
    fn has_groups_of_image_depends_on_version() {
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
    fn gpus_by_id_needs_version_and_configuration() {
        let gpus = |name: &str, version: &str, cdi: Option<bool>| {
            let (name, version, api_version) = (name.into(), version.into(), "v1".into());
            of(&Engine { name, version, api_version, cdi }, &EngineLocation::default(), true)
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
    fn capabilities_of_containerd_are_false_for_others() {
        let can = |name: &str| {
            let (name, version, api_version) = (name.into(), "1.30.0".into(), "v1".into());
            let engine = Engine { name, version, api_version, cdi: Some(true) };
            of(&engine, &EngineLocation::default(), true)
        };
        assert!(can("containerd").gpus_by_id && can("containerd").logs_at_exit);
        assert!(can("containerd").empty_arguments);
        let crio = can("cri-o");
        assert!(!crio.gpus_by_id && !crio.logs_at_exit);
        assert!(!crio.exec_signal && !crio.empty_arguments);
        assert!(crio.exit_while_away && crio.logs_carriage_returns);
        assert!(!crio.stop_immediately, "CRI-O sends the stop signal first");
        assert_eq!(crio.limits.minimum_memory, Some(12 << 20));
        let other = can("another");
        assert!(!other.exit_while_away && !other.logs_carriage_returns);
    }

    #[test]
    fn capabilities_of_the_host_are_false_for_a_remote_engine() {
        let engine = Engine {
            name: "containerd".into(),
            version: "2.1".into(),
            api_version: "v1".into(),
            cdi: None,
        };
        let location = EngineLocation { root: true, ..EngineLocation::default() };
        let can = of(&engine, &location, false);
        assert!(!can.kill && !can.shared_memory && !can.logs && !can.stats_block_io);
        assert!(can.wait && can.stats_cpu);
    }
}
