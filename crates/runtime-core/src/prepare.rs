//! The check that every spec goes through before an engine hears of it, and what comes out.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::rules::{
    check_absolute, check_account, check_hostname, check_labels, check_signed, check_variable,
    check_words, check_words_size, in_short, is_kubernetes_name,
};
use crate::options::DEFAULT_STOP_GRACE;
use crate::{
    Capabilities, Capability, ContainerName, ContainerSpec, Error, Gpus, ImageRef, Interactive,
    LABEL_CREATED_AT, LABEL_MANAGED, LABEL_NONCE, LABEL_SCOPE, Mount, MountAccess,
    NVIDIA_VISIBLE_DEVICES, Nonce, PullPolicy, RegistryAuth, Result, Scope, Signal,
};

/// A spec that has been checked, with everything decided that does not depend on the engine.
///
/// A backend takes it apart without `..`: so a field that is added here does not compile until
/// every backend has decided what to do with it. That is why it is exhaustive, unlike all other
/// types of this crate.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "see above")]
pub struct PreparedSpec {
    /// The image, normalised.
    pub image: ImageRef,
    /// The login that the caller gave.
    pub auth: Option<RegistryAuth>,
    /// When to pull.
    pub pull_policy: PullPolicy,
    /// The name, the caller's or one made up.
    pub name: ContainerName,
    /// The nonce of this create. It is among the labels too.
    pub nonce: Nonce,
    /// In place of the image's entrypoint.
    pub command: Option<Vec<String>>,
    /// In place of the image's arguments.
    pub arguments: Option<Vec<String>>,
    /// The environment, with what this library adds.
    pub env: BTreeMap<String, String>,
    /// Variables of the image that the container does not get.
    pub unset_env: BTreeSet<String>,
    /// The labels, with those that this library adds.
    pub labels: BTreeMap<String, String>,
    /// The mounts.
    pub mounts: Vec<Mount>,
    /// Standard input or a terminal.
    pub interactive: Interactive,
    /// The limit on memory in bytes.
    pub memory: Option<u64>,
    /// The size of /dev/shm in bytes.
    pub shared_memory: Option<u64>,
    /// What holds of `cpu_shares` and `cpu_count`.
    pub cpu: CpuLimit,
    /// GPUs.
    pub gpus: Gpus,
    /// `user` or `user:group`.
    pub user: Option<String>,
    /// More groups.
    pub groups: Vec<String>,
    /// The folder.
    pub working_dir: Option<String>,
    /// The ports to publish.
    pub tcp_ports: Vec<u16>,
    /// The host name.
    pub hostname: Option<String>,
    /// The grace of a stop, rounded up to the engine's unit and least.
    pub stop_grace: Duration,
    /// The stop signal.
    pub stop_signal: Option<Signal>,
    /// The OOM score adjustment.
    pub oom_score_adj: i32,
}

/// What holds of the two ways to ask for CPU.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "a backend has to decide on each")]
pub enum CpuLimit {
    /// Neither was asked for.
    None,
    /// The weight against other containers.
    Shares(u64),
    /// The hard limit.
    Count(f64),
}

impl ContainerSpec {
    /// Checks the whole spec against what the engine can do, and decides the rest.
    ///
    /// # Errors
    /// `InvalidArgument` or `Unsupported` with the name of the first field that is wrong.
    pub fn prepare(&self, scope: &Scope, capabilities: &Capabilities) -> Result<PreparedSpec> {
        // Taken apart whole, so that a new field does not compile until it is decided on here.
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
        let can = Check { capabilities };

        let reference = image.resolve()?;
        if reference.is_id() && *pull_policy == PullPolicy::Always {
            return Err(Error::invalid("pull_policy", "an image id cannot be pulled"));
        }
        let nonce = Nonce::random()?;
        let name = match name {
            Some(name) => ContainerName::new(name)?,
            None => ContainerName::from_nonce(&nonce),
        };
        check_words("command", command.as_deref())?;
        if command.as_ref().is_some_and(|words| words.first().is_none_or(String::is_empty)) {
            return Err(Error::invalid("command", "names no executable"));
        }
        check_words("arguments", arguments.as_deref())?;
        if command.is_none() && arguments.as_ref().is_some_and(Vec::is_empty) {
            can.want("arguments", Capability::EmptyArguments)?;
        }
        can.check_env(env, unset_env)?;
        check_words_size(command.as_deref(), arguments.as_deref(), env)?;
        check_labels(labels)?;
        can.check_mounts(mounts)?;
        match interactive {
            Interactive::No => {}
            Interactive::Stdin => can.want("interactive", Capability::InteractiveStdin)?,
            Interactive::Terminal => can.want("interactive", Capability::Terminal)?,
        }
        can.check_memory(*memory, *shared_memory)?;
        let cpu = can.check_cpu(*cpu_count, *cpu_shares)?;
        can.check_gpus(gpus)?;
        can.check_user(user.as_deref(), groups)?;
        if let Some(dir) = working_dir {
            can.want("working_dir", Capability::WorkingDir)?;
            check_absolute("working_dir", dir)?;
        }
        can.check_ports(tcp_ports)?;
        if let Some(hostname) = hostname {
            can.want("hostname", Capability::Hostname)?;
            check_hostname(hostname)?;
        }
        if stop_signal.is_some() {
            can.want("stop_signal", Capability::StopSignal)?;
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
    /// The grace period that the engine counts for `grace`: rounded up to its unit, and not less
    /// than its least. Zero stays zero where the engine can stop at once.
    #[must_use]
    pub fn round_grace(&self, grace: Duration) -> Duration {
        let mut rounded = match self.limits.stop_grace_unit {
            Some(unit) if !unit.is_zero() => {
                let units = grace.as_nanos().div_ceil(unit.as_nanos());
                unit.saturating_mul(u32::try_from(units).unwrap_or(u32::MAX))
            }
            _ => grace,
        };
        if let Some(least) = self.limits.minimum_stop_grace {
            rounded = rounded.max(least);
        }
        rounded
    }
}

fn managed_labels(scope: &Scope, nonce: &Nonce) -> [(String, String); 4] {
    // A clock before 1970 gives 0, which only makes the container look old to a reap.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    [
        (LABEL_MANAGED.to_owned(), "true".to_owned()),
        (LABEL_SCOPE.to_owned(), scope.to_string()),
        (LABEL_NONCE.to_owned(), nonce.to_string()),
        (LABEL_CREATED_AT.to_owned(), now.as_millis().to_string()),
    ]
}

struct Check<'a> {
    capabilities: &'a Capabilities,
}

impl Check<'_> {
    fn want(&self, field: &str, capability: Capability) -> Result<()> {
        self.capabilities.require(capability).map_err(|error| error.with_field(field))
    }

    fn check_env(&self, env: &BTreeMap<String, String>, unset: &BTreeSet<String>) -> Result<()> {
        let set = env.iter().map(|(name, value)| ("env", name, value.as_str()));
        let unset_names = unset.iter().map(|name| ("unset_env", name, ""));
        for (list, name, value) in set.chain(unset_names) {
            let field = format!("{list}[{:?}]", in_short(name));
            check_variable(&field, name, value)?;
            if !is_kubernetes_name(name) {
                self.want(&field, Capability::EnvNames)?;
            }
            if list == "unset_env" {
                self.want(&field, Capability::EnvUnset)?;
                if env.contains_key(name) {
                    return Err(Error::invalid(field, "is set by env as well"));
                }
            }
        }
        Ok(())
    }

    fn check_mounts(&self, mounts: &[Mount]) -> Result<()> {
        let mut targets = BTreeSet::new();
        for (at, mount) in mounts.iter().enumerate() {
            // Every kind of source can be mounted; the backend compares it with the file.
            let Mount { source, target, access, kind: _ } = mount;
            let field = |name: &str| format!("mounts[{at}].{name}");
            self.want(&field("source"), Capability::Mounts)?;
            if *access == MountAccess::ReadOnly {
                self.want(&field("access"), Capability::MountsReadOnly)?;
            }
            let Some(source) = source.to_str() else {
                return Err(Error::invalid(field("source"), "is not UTF-8"));
            };
            check_absolute(&field("source"), source)?;
            check_absolute(&field("target"), target)?;
            let plain = target.trim_end_matches('/');
            if plain.is_empty() {
                return Err(Error::invalid(field("target"), "cannot be the root folder"));
            }
            if !targets.insert(plain) {
                return Err(Error::invalid(field("target"), format!("{plain} is mounted twice")));
            }
        }
        Ok(())
    }

    fn check_memory(&self, memory: Option<u64>, shared_memory: Option<u64>) -> Result<()> {
        if let Some(memory) = memory {
            self.want("memory", Capability::MemoryLimit)?;
            let least = self.capabilities.limits.minimum_memory.unwrap_or(1);
            if memory < least {
                return Err(Error::invalid(
                    "memory",
                    format!("{memory} bytes is less than the minimum of {least} bytes"),
                ));
            }
            check_signed("memory", memory)?;
        }
        if let Some(bytes) = shared_memory {
            self.want("shared_memory", Capability::SharedMemory)?;
            if bytes == 0 {
                return Err(Error::invalid("shared_memory", "must be at least 1 byte"));
            }
            check_signed("shared_memory", bytes)?;
        }
        Ok(())
    }

    fn check_cpu(&self, count: Option<f64>, shares: Option<u64>) -> Result<CpuLimit> {
        // Both are checked even where only one holds: a wrong number is a mistake all the same.
        if let Some(count) = count {
            // The kernel counts a quota in microseconds of a period of 100 ms, and takes no
            // quota under 1 ms: sched-bwc.
            if !(0.01..=100_000.0).contains(&count) {
                return Err(Error::invalid("cpu_count", format!("{count} is not 0.01 to 100000")));
            }
            self.want("cpu_count", Capability::CpuCount)?;
        }
        if let Some(shares) = shares {
            // The bounds of cpu.shares in the kernel; engines clamp to them in silence.
            if !(2..=262_144).contains(&shares) {
                return Err(Error::invalid("cpu_shares", format!("{shares} is not 2 to 262144")));
            }
            self.want("cpu_shares", Capability::CpuShares)?;
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
            Gpus::Count(_) => self.want("gpus", Capability::GpusByCount),
            Gpus::Ids(ids) => {
                let mut seen = BTreeSet::new();
                for (at, id) in ids.iter().enumerate() {
                    let field = format!("gpus[{at}]");
                    if id.is_empty()
                        || id.contains([',', '=', '\0'])
                        || id.contains(char::is_whitespace)
                    {
                        return Err(Error::invalid(field, format!("{id:?} is no GPU id")));
                    }
                    if !seen.insert(id) {
                        return Err(Error::invalid(field, format!("{id:?} is asked for twice")));
                    }
                }
                self.want("gpus", Capability::GpusById)
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
            self.want("user", if named { Capability::UserName } else { Capability::User })?;
            if let Some(group) = group {
                let named = check_account("user", group)?;
                self.want("user", if named { Capability::GroupName } else { Capability::User })?;
            }
        }
        for (at, group) in groups.iter().enumerate() {
            let field = format!("groups[{at}]");
            let named = check_account(&field, group)?;
            self.want(&field, Capability::SupplementaryGroups)?;
            if named {
                self.want(&field, Capability::GroupName)?;
            }
        }
        Ok(())
    }

    fn check_ports(&self, ports: &[u16]) -> Result<()> {
        let mut seen = BTreeSet::new();
        for (at, port) in ports.iter().enumerate() {
            let field = format!("tcp_ports[{at}]");
            if *port == 0 {
                return Err(Error::invalid(field, "port 0 does not exist"));
            }
            if !seen.insert(port) {
                return Err(Error::invalid(field, format!("{port} is published twice")));
            }
            self.want(&field, Capability::TcpPorts)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn all() -> Capabilities {
        let mut all = Capabilities::default();
        for &capability in Capability::ALL {
            all.set(capability, true);
        }
        all.limits.minimum_memory = Some(6 << 20);
        all.limits.stop_grace_unit = Some(Duration::from_secs(1));
        all
    }

    fn prepare(spec: &ContainerSpec, capabilities: &Capabilities) -> Result<PreparedSpec> {
        spec.prepare(&Scope::new("test").unwrap(), capabilities)
    }

    fn spec() -> ContainerSpec {
        ContainerSpec::new("busybox")
    }

    #[test]
    fn spec_that_no_engine_can_carry_names_the_field() {
        let big = |bytes: usize| "x".repeat(bytes);
        let word = (128 << 10) - 1;
        let many = |count: usize| vec![big(100 << 10); count];
        let filled = |spec: ContainerSpec, count: usize| {
            (0..count).fold(spec, |spec, n| spec.env(format!("E{n}"), big(100 << 10)))
        };
        for (spec, field) in [
            (spec().command(["x".to_owned(), big(word + 1)]), "command[1]"),
            (spec().arguments([big(word + 1)]), "arguments[0]"),
            (spec().env("A", big(word - 1)), "env[\"A\"]"),
            (spec().arguments(many(6)), "arguments[5]"),
            (filled(spec().arguments(many(3)), 3), "env[\"E2\"]"),
            (spec().label("a", big(64 << 10)), "labels[\"a\"]"),
            // It takes six bytes of JSON for each.
            (spec().label("a", "\u{1}".repeat(11 << 10)), "labels[\"a\"]"),
            (spec().label("a", big(40 << 10)).label("b", big(40 << 10)), "labels[\"b\"]"),
            (spec().working_dir(format!("/{}", big(4095))), "working_dir"),
        ] {
            let error = prepare(&spec, &all()).unwrap_err();
            assert_eq!(
                (error.kind(), error.field()),
                (ErrorKind::InvalidArgument, Some(field)),
                "{error}"
            );
            assert!(error.to_string().len() < 1000, "the error repeats the input");
        }
        for spec in [
            spec().command(["x".to_owned(), big(word)]),
            spec().env("A", big(word - 2)),
            spec().arguments(many(5)),
            spec().label("a", big(63 << 10)),
            spec().working_dir(format!("/{}", big(4094))),
        ] {
            prepare(&spec, &all()).unwrap();
        }
    }

    #[test]
    fn a_minimal_spec_needs_no_capability() {
        let prepared = prepare(&spec(), &Capabilities::default()).unwrap();
        assert_eq!(prepared.image.to_string(), "docker.io/library/busybox:latest");
        assert_eq!(prepared.env.get(NVIDIA_VISIBLE_DEVICES).map(String::as_str), Some("none"));
        assert_eq!(prepared.labels[LABEL_SCOPE], "test");
        assert_eq!(prepared.labels[LABEL_NONCE], prepared.nonce.as_str());
        assert_eq!(prepared.stop_grace, Duration::from_secs(10));
        assert_eq!(prepared.oom_score_adj, 1000);
    }

    #[test]
    fn asking_for_anything_makes_it_less_evictable() {
        for asking in [
            spec().memory(1 << 30),
            spec().cpu_count(1.0),
            spec().cpu_shares(10),
            spec().gpus(Gpus::Count(1)),
        ] {
            assert_eq!(asking.oom_score_adj(), 0);
        }
        assert_eq!(spec().gpus(Gpus::Ids(vec![])).oom_score_adj(), 1000);
    }

    #[test]
    fn shares_come_before_count() {
        let both = spec().cpu_count(0.5).cpu_shares(512);
        assert_eq!(prepare(&both, &all()).unwrap().cpu, CpuLimit::Shares(512));
        let count = spec().cpu_count(0.5);
        assert_eq!(prepare(&count, &all()).unwrap().cpu, CpuLimit::Count(0.5));
    }

    #[test]
    fn graces_are_rounded_up() {
        let mut capabilities = all();
        let round = |capabilities: &Capabilities, millis| {
            capabilities.round_grace(Duration::from_millis(millis)).as_millis()
        };
        assert_eq!(
            [0, 1, 500, 1000, 1001].map(|ms| round(&capabilities, ms)),
            [0, 1000, 1000, 1000, 2000]
        );
        capabilities.limits.minimum_stop_grace = Some(Duration::from_secs(2));
        assert_eq!([0, 1000, 2001].map(|ms| round(&capabilities, ms)), [2000, 2000, 3000]);
        assert_eq!(Capabilities::default().round_grace(Duration::from_millis(7)).as_millis(), 7);
    }

    #[test]
    fn each_wrong_field_is_named() {
        let mut set_and_unset = spec().env("A", "1");
        set_and_unset.unset_env.insert("A".to_owned());
        let wrong = [
            (ContainerSpec::new("A B"), "image"),
            (ContainerSpec::new("a".repeat(64)).pull_policy(PullPolicy::Always), "pull_policy"),
            (spec().name("-x"), "name"),
            (spec().command(Vec::<String>::new()), "command"),
            (spec().command([""]), "command"),
            (spec().command(["a", "b\0"]), "command[1]"),
            (spec().arguments(["\0"]), "arguments[0]"),
            (spec().env("", "x"), "env[\"\"]"),
            (spec().env("A=B", "x"), "env[\"A=B\"]"),
            (spec().env("A", "\0"), "env[\"A\"]"),
            (spec().env(NVIDIA_VISIBLE_DEVICES, "all"), "env[\"NVIDIA_VISIBLE_DEVICES\"]"),
            (spec().unset_env(""), "unset_env[\"\"]"),
            (spec().unset_env("A=B"), "unset_env[\"A=B\"]"),
            (spec().unset_env(NVIDIA_VISIBLE_DEVICES), "unset_env[\"NVIDIA_VISIBLE_DEVICES\"]"),
            (set_and_unset, "unset_env[\"A\"]"),
            (spec().label("", "x"), "labels[\"\"]"),
            (spec().label("k", "\0"), "labels[\"k\"]"),
            (spec().label("container-runtime/scope", "x"), "labels[\"container-runtime/scope\"]"),
            (spec().mount(Mount::new("a", "/b")), "mounts[0].source"),
            (spec().mount(Mount::new("/a", "b")), "mounts[0].target"),
            (spec().mount(Mount::new("/a", "/")), "mounts[0].target"),
            (spec().mount(Mount::new("/a", "/b/../c")), "mounts[0].target"),
            (
                spec().mount(Mount::new("/a", "/b")).mount(Mount::new("/a", "/b/")),
                "mounts[1].target",
            ),
            (spec().memory((6 << 20) - 1), "memory"),
            (spec().memory(u64::MAX), "memory"),
            (spec().shared_memory(0), "shared_memory"),
            (spec().cpu_count(0.0), "cpu_count"),
            (spec().cpu_count(-1.0), "cpu_count"),
            (spec().cpu_count(f64::NAN), "cpu_count"),
            (spec().cpu_count(f64::INFINITY), "cpu_count"),
            (spec().cpu_shares(1), "cpu_shares"),
            (spec().cpu_shares(262_145), "cpu_shares"),
            (spec().gpus(Gpus::Ids(vec!["0".into(), "0".into()])), "gpus[1]"),
            (spec().gpus(Gpus::Ids(vec!["".into()])), "gpus[0]"),
            (spec().user(""), "user"),
            (spec().user("a:"), "user"),
            (spec().user("1:2:3"), "user"),
            (spec().user("4294967295"), "user"),
            (spec().group(""), "groups[0]"),
            (spec().group("1").group("a\0"), "groups[1]"),
            (spec().working_dir("tmp"), "working_dir"),
            (spec().tcp_port(0), "tcp_ports[0]"),
            (spec().tcp_port(80).tcp_port(80), "tcp_ports[1]"),
            (spec().hostname(""), "hostname"),
            (spec().hostname("a_b"), "hostname"),
            (spec().hostname("x".repeat(64)), "hostname"),
        ];
        for (spec, field) in wrong {
            let error = prepare(&spec, &all()).unwrap_err();
            assert_eq!(
                (error.kind(), error.field()),
                (ErrorKind::InvalidArgument, Some(field)),
                "{error}"
            );
        }
    }

    #[test]
    fn each_missing_capability_names_field_and_capability() {
        let wanting = [
            (spec().env("1A", "x"), "env[\"1A\"]", Capability::EnvNames),
            (spec().env("A B", "x"), "env[\"A B\"]", Capability::EnvNames),
            (spec().env("..A", "x"), "env[\"..A\"]", Capability::EnvNames),
            (spec().env("\u{e4}", "x"), "env[\"\u{e4}\"]", Capability::EnvNames),
            (spec().env("A", "x").unset_env("A"), "unset_env[\"A\"]", Capability::EnvUnset),
            (spec().memory(1 << 30), "memory", Capability::MemoryLimit),
            (spec().shared_memory(1), "shared_memory", Capability::SharedMemory),
            (spec().cpu_count(1.0), "cpu_count", Capability::CpuCount),
            (spec().cpu_shares(2), "cpu_shares", Capability::CpuShares),
            (spec().gpus(Gpus::Count(1)), "gpus", Capability::GpusByCount),
            (spec().gpus(Gpus::Ids(vec!["0".into()])), "gpus", Capability::GpusById),
            (spec().user("0"), "user", Capability::User),
            (spec().user("root"), "user", Capability::UserName),
            (spec().user("0:root"), "user", Capability::GroupName),
            (spec().group("0"), "groups[0]", Capability::SupplementaryGroups),
            (spec().working_dir("/"), "working_dir", Capability::WorkingDir),
            (spec().hostname("h"), "hostname", Capability::Hostname),
            (spec().mount(Mount::new("/a", "/b")), "mounts[0].source", Capability::Mounts),
            (
                spec().mount(Mount::read_only("/a", "/b")),
                "mounts[0].access",
                Capability::MountsReadOnly,
            ),
            (spec().tcp_port(1), "tcp_ports[0]", Capability::TcpPorts),
            (spec().interactive(Interactive::Stdin), "interactive", Capability::InteractiveStdin),
            (spec().interactive(Interactive::Terminal), "interactive", Capability::Terminal),
            (spec().stop_signal(Signal::INT), "stop_signal", Capability::StopSignal),
            (spec().arguments([""; 0]), "arguments", Capability::EmptyArguments),
        ];
        for (spec, field, capability) in wanting {
            let mut capabilities = all();
            capabilities.set(capability, false);
            let error = prepare(&spec, &capabilities).unwrap_err();
            assert_eq!(
                (error.kind(), error.field(), error.capability()),
                (ErrorKind::Unsupported, Some(field), Some(capability)),
            );
            prepare(&spec, &all()).unwrap();
        }
    }

    #[test]
    fn a_spec_survives_serialisation_without_its_password() {
        let spec =
            ContainerSpec::new(crate::Image::new("r.io/a").auth(RegistryAuth::new("u", "secret")))
                .cpu_count(0.5)
                .stop_signal(Signal::INT)
                .gpus(Gpus::Count(2));
        let json = serde_json::to_string(&spec).unwrap();
        assert!(!json.contains("secret"));
        let mut back: ContainerSpec = serde_json::from_str(&json).unwrap();
        assert_eq!(back.image.auth, None);
        back.image.auth.clone_from(&spec.image.auth);
        assert_eq!(back, spec);
        let minimal: ContainerSpec =
            serde_json::from_str(r#"{"image":{"reference":"a"}}"#).unwrap();
        assert_eq!(minimal, ContainerSpec::new("a"));
    }
}
