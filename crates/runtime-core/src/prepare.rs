//! Validation of a [`ContainerSpec`] before any request is sent.

mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::rules::{
    check_absolute, check_account, check_fits_i64, check_hostname, check_labels, check_list,
    check_process_size, check_variable, is_kubernetes_name, truncate_name,
};
use crate::options::DEFAULT_STOP_GRACE;
use crate::{
    Capabilities, Capability, ContainerName, ContainerSpec, Error, Gpus, ImageRef, Interactive,
    LABEL_CREATED_AT, LABEL_MANAGED, LABEL_NONCE, LABEL_SCOPE, Mount, MountAccess,
    NVIDIA_VISIBLE_DEVICES, Nonce, PullPolicy, RegistryAuth, Result, Scope, Signal,
};

/// A validated spec, in which everything that does not depend on the engine is decided.
///
/// A backend destructures this type without `..`, so a new field does not compile until every
/// backend handles it. For this reason the type is exhaustive, unlike all other types of this
/// crate.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "see above")]
pub struct PreparedSpec {
    /// The normalised image reference.
    pub image: ImageRef,
    /// The caller's registry credentials.
    pub auth: Option<RegistryAuth>,
    /// Pull policy.
    pub pull_policy: PullPolicy,
    /// The caller's name, or a generated one.
    pub name: ContainerName,
    /// The nonce of this create, which is also in `labels`.
    pub nonce: Nonce,
    /// Executable and first arguments, in place of the image's entrypoint.
    pub command: Option<Vec<String>>,
    /// Arguments, in place of the image's.
    pub arguments: Option<Vec<String>>,
    /// Environment variables, including those that this library adds.
    pub env: BTreeMap<String, String>,
    /// Variables of the image that are removed.
    pub unset_env: BTreeSet<String>,
    /// Labels, including those that this library adds.
    pub labels: BTreeMap<String, String>,
    /// Directories and files of the host to mount.
    pub mounts: Vec<Mount>,
    /// Stdin or a terminal for the main process.
    pub interactive: Interactive,
    /// Memory limit in bytes.
    pub memory: Option<u64>,
    /// Size of /dev/shm in bytes.
    pub shared_memory: Option<u64>,
    /// CPU limit or weight, from `cpu_shares` and `cpu_count`.
    pub cpu: CpuLimit,
    /// GPUs of the container.
    pub gpus: Gpus,
    /// User of the main process: `user` or `user:group`.
    pub user: Option<String>,
    /// Supplementary groups.
    pub groups: Vec<String>,
    /// Working directory of the command.
    pub working_dir: Option<String>,
    /// TCP ports of the container to publish.
    pub tcp_ports: Vec<u16>,
    /// Host name of the container.
    pub hostname: Option<String>,
    /// Grace period of a stop, rounded up to the engine's unit and minimum.
    pub stop_grace: Duration,
    /// Stop signal, in place of the image's.
    pub stop_signal: Option<Signal>,
    /// OOM score adjustment.
    pub oom_score_adj: i32,
}

/// CPU limit or weight of a container.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "a backend has to decide on each")]
pub enum CpuLimit {
    /// Neither is set.
    None,
    /// Weight relative to other containers.
    Shares(u64),
    /// Limit in CPUs.
    Count(f64),
}

impl ContainerSpec {
    /// Validates the spec against the capabilities of the engine, and decides everything that does
    /// not depend on the engine.
    ///
    /// # Errors
    /// `InvalidArgument` or `Unsupported` naming the first invalid field.
    pub fn prepare(&self, scope: &Scope, capabilities: &Capabilities) -> Result<PreparedSpec> {
        // Destructured without `..`, so that a new field does not compile until it is handled here.
        let Self {
            image,
            pull_policy,
            name,
            command,
            arguments,
            env,
            unset_env,
            labels,
            mounts,
            interactive,
            memory,
            shared_memory,
            cpu_count,
            cpu_shares,
            gpus,
            user,
            groups,
            working_dir,
            tcp_ports,
            hostname,
            stop_grace,
            stop_signal,
        } = self;
        let validator = Validator { capabilities };

        let reference = image.resolve()?;
        if reference.is_id() && *pull_policy == PullPolicy::Always {
            return Err(Error::invalid("pull_policy", "an image id cannot be pulled"));
        }
        let nonce = Nonce::random()?;
        let name = match name {
            Some(name) => ContainerName::new(name)?,
            None => ContainerName::from_nonce(&nonce),
        };
        check_list("command", command.as_deref())?;
        if command.as_ref().is_some_and(|parts| parts.first().is_none_or(String::is_empty)) {
            return Err(Error::invalid("command", "must name an executable"));
        }
        check_list("arguments", arguments.as_deref())?;
        if command.is_none() && arguments.as_ref().is_some_and(Vec::is_empty) {
            validator.require("arguments", Capability::EmptyArguments)?;
        }
        validator.check_env(env, unset_env)?;
        check_process_size(command.as_deref(), arguments.as_deref(), env)?;
        check_labels(labels)?;
        validator.check_mounts(mounts)?;
        match interactive {
            Interactive::No => {}
            Interactive::Stdin => validator.require("interactive", Capability::InteractiveStdin)?,
            Interactive::Terminal => validator.require("interactive", Capability::Terminal)?,
        }
        validator.check_memory(*memory, *shared_memory)?;
        let cpu = validator.check_cpu(*cpu_count, *cpu_shares)?;
        validator.check_gpus(gpus)?;
        validator.check_user(user.as_deref(), groups)?;
        if let Some(dir) = working_dir {
            validator.require("working_dir", Capability::WorkingDir)?;
            check_absolute("working_dir", dir)?;
        }
        validator.check_ports(tcp_ports)?;
        if let Some(hostname) = hostname {
            validator.require("hostname", Capability::Hostname)?;
            check_hostname(hostname)?;
        }
        if stop_signal.is_some() {
            validator.require("stop_signal", Capability::StopSignal)?;
        }

        let mut env = env.clone();
        if gpus.is_none() {
            env.insert(NVIDIA_VISIBLE_DEVICES.to_owned(), "none".to_owned());
        }
        let mut labels = labels.clone();
        labels.extend(managed_labels(scope, &nonce));
        Ok(PreparedSpec {
            image: reference,
            auth: image.auth.clone(),
            pull_policy: *pull_policy,
            name,
            nonce,
            command: command.clone(),
            arguments: arguments.clone(),
            env,
            unset_env: unset_env.clone(),
            labels,
            mounts: mounts.clone(),
            interactive: *interactive,
            memory: *memory,
            shared_memory: *shared_memory,
            cpu,
            gpus: gpus.clone(),
            user: user.clone(),
            groups: groups.clone(),
            working_dir: working_dir.clone(),
            tcp_ports: tcp_ports.clone(),
            hostname: hostname.clone(),
            stop_grace: capabilities.round_grace(stop_grace.unwrap_or(DEFAULT_STOP_GRACE)),
            stop_signal: *stop_signal,
            oom_score_adj: self.oom_score_adj(),
        })
    }
}

impl Capabilities {
    /// Returns the grace period that the engine applies for `grace`: rounded up to its unit, and at
    /// least its minimum. Zero stays zero if the engine can stop at once.
    #[must_use]
    pub fn round_grace(&self, grace: Duration) -> Duration {
        let mut rounded = match self.limits.stop_grace_unit {
            Some(unit) if !unit.is_zero() => {
                let units = grace.as_nanos().div_ceil(unit.as_nanos());
                unit.saturating_mul(u32::try_from(units).unwrap_or(u32::MAX))
            }
            _ => grace,
        };
        if let Some(minimum) = self.limits.minimum_stop_grace {
            rounded = rounded.max(minimum);
        }
        rounded
    }
}

fn managed_labels(scope: &Scope, nonce: &Nonce) -> [(String, String); 4] {
    // A clock before 1970 yields 0, which only makes the container appear old to a reap.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    [
        (LABEL_MANAGED.to_owned(), "true".to_owned()),
        (LABEL_SCOPE.to_owned(), scope.to_string()),
        (LABEL_NONCE.to_owned(), nonce.to_string()),
        (LABEL_CREATED_AT.to_owned(), now.as_millis().to_string()),
    ]
}

struct Validator<'a> {
    capabilities: &'a Capabilities,
}

impl Validator<'_> {
    fn require(&self, field: &str, capability: Capability) -> Result<()> {
        self.capabilities.require(capability).map_err(|error| error.with_field(field))
    }

    fn check_env(&self, env: &BTreeMap<String, String>, unset: &BTreeSet<String>) -> Result<()> {
        let set = env.iter().map(|(name, value)| ("env", name, value.as_str()));
        let unset_names = unset.iter().map(|name| ("unset_env", name, ""));
        for (list, name, value) in set.chain(unset_names) {
            let field = format!("{list}[{:?}]", truncate_name(name));
            check_variable(&field, name, value)?;
            if !is_kubernetes_name(name) {
                self.require(&field, Capability::EnvNames)?;
            }
            if list == "unset_env" {
                self.require(&field, Capability::EnvUnset)?;
                if env.contains_key(name) {
                    return Err(Error::invalid(field, "is also set by env"));
                }
            }
        }
        Ok(())
    }

    fn check_mounts(&self, mounts: &[Mount]) -> Result<()> {
        let mut targets = BTreeSet::new();
        for (at, mount) in mounts.iter().enumerate() {
            // All kinds are accepted here; the backend compares the kind with the source.
            let Mount { source, target, access, kind: _ } = mount;
            let field = |name: &str| format!("mounts[{at}].{name}");
            self.require(&field("source"), Capability::Mounts)?;
            if *access == MountAccess::ReadOnly {
                self.require(&field("access"), Capability::MountsReadOnly)?;
            }
            let Some(source) = source.to_str() else {
                return Err(Error::invalid(field("source"), "is not UTF-8"));
            };
            check_absolute(&field("source"), source)?;
            check_absolute(&field("target"), target)?;
            let path = target.trim_end_matches('/');
            if path.is_empty() {
                return Err(Error::invalid(field("target"), "must not be the root directory"));
            }
            if !targets.insert(path) {
                return Err(Error::invalid(field("target"), format!("{path} is mounted twice")));
            }
        }
        Ok(())
    }

    fn check_memory(&self, memory: Option<u64>, shared_memory: Option<u64>) -> Result<()> {
        if let Some(memory) = memory {
            self.require("memory", Capability::MemoryLimit)?;
            let minimum = self.capabilities.limits.minimum_memory.unwrap_or(1);
            if memory < minimum {
                return Err(Error::invalid(
                    "memory",
                    format!("{memory} bytes is less than the minimum of {minimum} bytes"),
                ));
            }
            check_fits_i64("memory", memory)?;
        }
        if let Some(bytes) = shared_memory {
            self.require("shared_memory", Capability::SharedMemory)?;
            if bytes == 0 {
                return Err(Error::invalid("shared_memory", "must be at least 1 byte"));
            }
            check_fits_i64("shared_memory", bytes)?;
        }
        Ok(())
    }

    fn check_cpu(&self, count: Option<f64>, shares: Option<u64>) -> Result<CpuLimit> {
        // Both values are checked even though only one takes effect, because an invalid value is an
        // error in either case.
        if let Some(count) = count {
            // The kernel counts the quota in microseconds per period of 100 ms, and accepts no
            // quota below 1 ms (sched-bwc).
            if !(0.01..=100_000.0).contains(&count) {
                return Err(Error::invalid("cpu_count", format!("{count} is not 0.01 to 100000")));
            }
            self.require("cpu_count", Capability::CpuCount)?;
        }
        if let Some(shares) = shares {
            // The kernel's range of cpu.shares. Engines clamp to this range silently.
            if !(2..=262_144).contains(&shares) {
                return Err(Error::invalid("cpu_shares", format!("{shares} is not 2 to 262144")));
            }
            self.require("cpu_shares", Capability::CpuShares)?;
        }
        Ok(match (shares, count) {
            (Some(shares), _) => CpuLimit::Shares(shares),
            (None, Some(count)) => CpuLimit::Count(count),
            (None, None) => CpuLimit::None,
        })
    }

    fn check_gpus(&self, gpus: &Gpus) -> Result<()> {
        match gpus {
            _ if gpus.is_none() => Ok(()),
            Gpus::None => Ok(()),
            Gpus::Count(_) => self.require("gpus", Capability::GpusByCount),
            Gpus::Ids(ids) => {
                let mut seen = BTreeSet::new();
                for (at, id) in ids.iter().enumerate() {
                    let field = format!("gpus[{at}]");
                    if id.is_empty()
                        || id.contains([',', '=', '\0'])
                        || id.contains(char::is_whitespace)
                    {
                        return Err(Error::invalid(field, format!("{id:?} is not a GPU id")));
                    }
                    if !seen.insert(id) {
                        return Err(Error::invalid(field, format!("{id:?} is listed twice")));
                    }
                }
                self.require("gpus", Capability::GpusById)
            }
        }
    }

    fn check_user(&self, user: Option<&str>, groups: &[String]) -> Result<()> {
        if let Some(user) = user {
            let (user, group) = match user.split_once(':') {
                Some((user, group)) => (user, Some(group)),
                None => (user, None),
            };
            let named = check_account("user", user)?;
            self.require("user", if named { Capability::UserName } else { Capability::User })?;
            if let Some(group) = group {
                let named = check_account("user", group)?;
                self.require("user", if named { Capability::GroupName } else { Capability::User })?;
            }
        }
        for (at, group) in groups.iter().enumerate() {
            let field = format!("groups[{at}]");
            let named = check_account(&field, group)?;
            self.require(&field, Capability::SupplementaryGroups)?;
            if named {
                self.require(&field, Capability::GroupName)?;
            }
        }
        Ok(())
    }

    fn check_ports(&self, ports: &[u16]) -> Result<()> {
        let mut seen = BTreeSet::new();
        for (at, port) in ports.iter().enumerate() {
            let field = format!("tcp_ports[{at}]");
            if *port == 0 {
                return Err(Error::invalid(field, "0 is not a valid port"));
            }
            if !seen.insert(port) {
                return Err(Error::invalid(field, format!("{port} is published twice")));
            }
            self.require(&field, Capability::TcpPorts)?;
        }
        Ok(())
    }
}
