//! What a connected engine can do.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! capabilities {
    ($($field:ident $variant:ident $words:literal;)*) => {
        /// What one connected engine can do, by its version and its configuration.
        ///
        /// Everything is false until a backend says otherwise. True means that a conformance
        /// case shows the effect; false means that the call or the field is refused with
        /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) and that a case shows it.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(default)]
        #[non_exhaustive]
        pub struct Capabilities {
            $(#[doc = $words] pub $field: bool,)*
            /// The limits that go with them.
            pub limits: Limits,
        }

        /// The name of one capability: it selects conformance cases, stands in
        /// [`Error::capability`](crate::Error::capability), and makes the table of backends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Capability {
            $(#[doc = $words] $variant,)*
        }

        impl Capability {
            /// All capabilities, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in snake case: the field's name in [`Capabilities`].
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($field),)* }
            }

            /// What it means, in a few words.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }
        }

        impl Capabilities {
            /// Whether the engine has `capability`.
            #[must_use]
            pub const fn has(&self, capability: Capability) -> bool {
                match capability { $(Capability::$variant => self.$field,)* }
            }

            /// Sets one capability.
            pub const fn set(&mut self, capability: Capability, value: bool) {
                match capability { $(Capability::$variant => self.$field = value,)* }
            }
        }
    };
}

capabilities! {
    pull_image PullImage "pulls an image when asked, before a container needs it";
    deferred_pull DeferredPull "the image is pulled when the container starts, by the node it lands on";
    pull_progress PullProgress "reports the bytes of every layer while it pulls";
    empty_arguments EmptyArguments "keeps the image's entrypoint and drops its arguments";
    env_names EnvNames "takes every name of a variable, and not only those of Kubernetes";
    env_unset EnvUnset "removes a variable that the image sets";
    memory_limit MemoryLimit "a hard limit on memory";
    shared_memory SharedMemory "a size for /dev/shm";
    cpu_count CpuCount "a hard limit on CPUs";
    cpu_shares CpuShares "a weight of CPU against other containers";
    gpus_by_id GpusById "GPUs by id";
    gpus_by_count GpusByCount "GPUs by number";
    user User "a numeric user, with or without a group";
    user_name UserName "a user by the name that the image gives";
    group_name GroupName "a group by the name that the image gives";
    image_group ImageGroup "gives a container without a user of its own the group that the image names beside its user";
    supplementary_groups SupplementaryGroups "more groups of the process";
    working_dir WorkingDir "the folder that the command runs in";
    hostname Hostname "the host name inside the container";
    mounts Mounts "host folders and files inside the container";
    mounts_read_only MountsReadOnly "mounts that cannot be written to";
    tcp_ports TcpPorts "container ports on free ports of the host";
    oom_score_adj OomScoreAdj "evictable containers are the first to die when memory is short";
    interactive_stdin InteractiveStdin "a main process with an open standard input";
    terminal Terminal "a main process on a terminal";
    stop_signal StopSignal "a stop signal other than the image's";
    stop_grace_override StopGraceOverride "a grace period at the stop other than the one of the create";
    stop_immediately StopImmediately "a stop with grace zero kills at once";
    kill Kill "sends a signal to the main process";
    oom_reason OomReason "tells out of memory from any other kill";
    wait Wait "waits for the exit";
    exit_while_away ExitWhileAway "knows the exit of a container that ended while the engine was down";
    logs Logs "reads what the container wrote";
    logs_streams_apart LogsStreamsApart "tells standard output from standard error in the logs";
    logs_exact_bytes LogsExactBytes "keeps bytes that are not UTF-8 as they were written";
    logs_carriage_returns LogsCarriageReturns "keeps a carriage return that stands before a line end";
    logs_at_exit LogsAtExit "keeps all that a process wrote in the moment before its end";
    logs_follow LogsFollow "follows the logs of a running container";
    stats_cpu StatsCpu "CPU use";
    stats_memory StatsMemory "memory use";
    stats_network StatsNetwork "network traffic";
    stats_block_io StatsBlockIo "block device traffic";
    bulk_stats BulkStats "the stats of many containers in one call";
    events Events "a stream of what happens to containers";
    events_since EventsSince "tells what has happened before it was asked for the events";
    exec Exec "runs a command in a running container";
    exec_stdin_eof ExecStdinEof "closes the standard input of an exec while its output goes on";
    exec_terminal ExecTerminal "exec on a terminal that can be resized";
    exec_user ExecUser "exec as another user";
    exec_env ExecEnv "exec with more environment";
    exec_working_dir ExecWorkingDir "exec in another folder";
    exec_signal ExecSignal "sends a signal to the process of an exec";
    exec_descendants ExecDescendants "ends what the process of an exec has started with it, when a signal or a drop ends it";
    attach Attach "attaches to the main process";
    attach_created AttachCreated "attaches before the start, so that no output is missed";
    copy_in CopyIn "copies files into the container";
    copy_out CopyOut "copies files out of the container";
    copy_stopped CopyStopped "copies files in and out while the container does not run";
    reattach Reattach "gives a handle for a container that another process created";
    reap Reap "removes what a scope left behind";
}

impl Capabilities {
    /// Refuses with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) unless the engine
    /// has `capability`.
    ///
    /// # Errors
    /// `Unsupported`, naming the capability.
    pub fn require(&self, capability: Capability) -> crate::Result<()> {
        if self.has(capability) { Ok(()) } else { Err(crate::Error::unsupported(capability)) }
    }

    /// The capabilities that the engine lacks, in the order of the table.
    pub fn missing(&self) -> impl Iterator<Item = Capability> + '_ {
        Capability::ALL.iter().copied().filter(|capability| !self.has(*capability))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Limits of a connected engine. `None` means that it has no such limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Limits {
    /// The least memory limit that the engine takes, in bytes.
    pub minimum_memory: Option<u64>,
    /// The least grace period that a stop can have.
    pub minimum_stop_grace: Option<Duration>,
    /// The unit in which the engine counts a grace period: longer ones are rounded up to it.
    pub stop_grace_unit: Option<Duration>,
    /// The unit in which the engine stamps log records: several lines then have one time. `None`
    /// where it counts nanoseconds.
    pub log_time_unit: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_promised_by_default() {
        let none = Capabilities::default();
        assert_eq!(none.missing().count(), Capability::ALL.len());
        for &capability in Capability::ALL {
            let mut one = Capabilities::default();
            one.set(capability, true);
            assert!(one.has(capability));
            assert_eq!(one.missing().count(), Capability::ALL.len() - 1);
            let refused = none.require(capability).unwrap_err();
            assert_eq!(refused.capability(), Some(capability));
            assert_eq!(
                serde_json::to_string(&capability).unwrap(),
                format!("\"{}\"", capability.name())
            );
        }
    }
}
