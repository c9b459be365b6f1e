//! Capabilities of a connected engine.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! capabilities {
    ($($field:ident $variant:ident $description:literal;)*) => {
        /// Capabilities of one connected engine, derived from its version and its configuration.
        ///
        /// All capabilities are `false` unless a backend sets them. For a `true` capability a
        /// conformance test observes the effect; for a `false` one, the call or the field is
        /// refused with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), and a
        /// conformance test verifies that.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(default)]
        #[non_exhaustive]
        pub struct Capabilities {
            $(#[doc = $description] pub $field: bool,)*
            /// Limits of the capabilities.
            pub limits: Limits,
        }

        /// Name of one capability. Used to select conformance tests, in
        /// [`Error::capability`](crate::Error::capability), and in the table of backends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Capability {
            $(#[doc = $description] $variant,)*
        }

        impl Capability {
            /// All capabilities, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the name in snake case, which is the name of the field in [`Capabilities`].
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($field),)* }
            }

            /// Returns a short description.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }
        }

        impl Capabilities {
            /// Returns `true` if the engine has `capability`.
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
    pull_image PullImage "pulls an image on request, before a container needs it";
    deferred_pull DeferredPull "pulls the image at the start of the container, on its node";
    pull_progress PullProgress "reports the bytes of each layer during a pull";
    empty_arguments EmptyArguments "runs the image's entrypoint without the image's arguments";
    env_names EnvNames "variable names beyond the Kubernetes rules";
    env_unset EnvUnset "removes a variable that the image sets";
    memory_limit MemoryLimit "memory limit";
    shared_memory SharedMemory "size of /dev/shm";
    cpu_count CpuCount "CPU limit";
    cpu_shares CpuShares "CPU weight relative to other containers";
    gpus_by_id GpusById "GPUs by id";
    gpus_by_count GpusByCount "GPUs by number";
    user User "numeric user, with or without a group";
    user_name UserName "user by a name from the image";
    group_name GroupName "group by a name from the image";
    image_group ImageGroup "applies the group of the image's `USER user:group` if the spec has no user";
    supplementary_groups SupplementaryGroups "supplementary groups of the process";
    working_dir WorkingDir "working directory of the command";
    hostname Hostname "host name of the container";
    mounts Mounts "mounts of host directories and files";
    mounts_read_only MountsReadOnly "read-only mounts";
    tcp_ports TcpPorts "container ports published on free host ports";
    oom_score_adj OomScoreAdj "evictable containers are killed first when memory runs out";
    interactive_stdin InteractiveStdin "open stdin of the main process";
    terminal Terminal "terminal of the main process";
    stop_signal StopSignal "stop signal other than the image's";
    stop_grace_override StopGraceOverride "grace period of a stop other than that of the spec";
    stop_immediately StopImmediately "immediate kill for a grace period of zero";
    kill Kill "sends a signal to the main process";
    oom_reason OomReason "distinguishes out of memory from other kills";
    wait Wait "waits for the exit";
    exit_while_away ExitWhileAway "reports the exit of a container that ended while the engine was down";
    logs Logs "reads the logs of a container";
    logs_streams_apart LogsStreamsApart "distinguishes stdout and stderr in the logs";
    logs_exact_bytes LogsExactBytes "keeps bytes that are not UTF-8 in the logs";
    logs_carriage_returns LogsCarriageReturns "keeps carriage returns before line ends in the logs";
    logs_at_exit LogsAtExit "keeps output written immediately before the exit";
    logs_follow LogsFollow "follows the logs of a running container";
    stats_cpu StatsCpu "CPU use";
    stats_memory StatsMemory "memory use";
    stats_network StatsNetwork "network traffic";
    stats_block_io StatsBlockIo "block device traffic";
    bulk_stats BulkStats "stats of many containers in one call";
    events Events "streams container events";
    events_since EventsSince "returns past events";
    exec Exec "runs a command in a running container";
    exec_stdin_eof ExecStdinEof "closes the stdin of an exec while its output continues";
    exec_terminal ExecTerminal "exec on a resizable terminal";
    exec_user ExecUser "exec as another user";
    exec_env ExecEnv "exec with additional environment variables";
    exec_working_dir ExecWorkingDir "exec in another working directory";
    exec_signal ExecSignal "sends a signal to the process of an exec";
    exec_descendants ExecDescendants "ends the descendants of an exec's process when a signal or a drop ends it";
    attach Attach "attaches to the main process";
    attach_created AttachCreated "attaches before the start, so that no output is lost";
    copy_in CopyIn "copies files into the container";
    copy_out CopyOut "copies files out of the container";
    copy_stopped CopyStopped "copies files while the container does not run";
    reattach Reattach "returns a handle for a container of another process";
    reap Reap "removes the containers of a scope";
}

impl Capabilities {
    /// Checks that the engine has `capability`.
    ///
    /// # Errors
    /// `Unsupported` naming the capability if the engine lacks it.
    pub fn require(&self, capability: Capability) -> crate::Result<()> {
        if self.has(capability) { Ok(()) } else { Err(crate::Error::unsupported(capability)) }
    }

    /// Iterates over the capabilities that the engine lacks, in the order of the table.
    pub fn missing(&self) -> impl Iterator<Item = Capability> + '_ {
        Capability::ALL.iter().copied().filter(|capability| !self.has(*capability))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Limits of a connected engine. `None` means no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Limits {
    /// Minimum memory limit in bytes.
    pub minimum_memory: Option<u64>,
    /// Minimum grace period of a stop.
    pub minimum_stop_grace: Option<Duration>,
    /// Unit of the engine's grace periods. Grace periods are rounded up to a multiple of it.
    pub stop_grace_unit: Option<Duration>,
    /// Resolution of the engine's log timestamps, so that several lines have the same time. `None`
    /// means nanoseconds.
    pub log_time_unit: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_has_no_capability() {
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
