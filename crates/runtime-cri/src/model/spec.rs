//! Conversion of a spec to requests.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use runtime_core::{
    Capability, CpuLimit, Error, Gpus, Interactive, MountAccess, Nonce, PreparedSpec, RegistryAuth,
    Result, Scope, TcpPortBinding,
};

use super::annotations::{Annotations, PORT_LABEL, port_label};
use super::image::ImageOnEngine;
use super::log_directory::LOG_FILE;
use crate::generated as cri;

/// Namespace and UID in the metadata of every sandbox. They are constant, so that a name is unique
/// on an engine, because an engine refuses a second sandbox with the same metadata.
const SANDBOX_NAMESPACE: &str = "container-runtime";

/// Period of the CPU quota in microseconds, the default of the kernel.
const CPU_PERIOD_MICROS: f64 = 100_000.0;

/// Paths that Docker and the kubelet hide from unprivileged containers.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that Docker and the kubelet make read-only for unprivileged containers.
const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Options that requests depend on.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) log_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// Whether the engine and this process share the log directory.
    pub(crate) logs: bool,
    /// Whether containers get an /etc/hosts of this library.
    pub(crate) hosts: bool,
    pub(crate) runtime_handler: Option<String>,
    pub(crate) cgroup_parent: Option<String>,
    pub(crate) gpu_kind: String,
    /// Ports of this host that may be published.
    pub(crate) host_ports: RangeInclusive<u16>,
    /// Whether events of the engine trigger the poller.
    pub(crate) events: bool,
}

/// Requests of a create.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) nonce: Nonce,
    pub(crate) image: runtime_core::ImageRef,
    pub(crate) auth: Option<RegistryAuth>,
    pub(crate) pull_policy: runtime_core::PullPolicy,
    /// Container ports to publish.
    pub(crate) tcp_ports: Vec<u16>,
    /// Size of /dev/shm.
    pub(crate) shared_memory: Option<u64>,
    pub(crate) mounts: Vec<runtime_core::Mount>,
    pub(crate) annotations: Annotations,
    sandbox: cri::PodSandboxConfig,
    container: cri::ContainerConfig,
    arguments_are_given: bool,
}

impl Plan {
    /// Converts a spec, except for the image and the ports.
    pub(crate) fn new(spec: PreparedSpec, scope: &Scope, settings: &Settings) -> Self {
        // Without `..`, so that a new field does not compile until it is handled here.
        let PreparedSpec {
            image,
            auth,
            pull_policy,
            name,
            nonce,
            command,
            arguments,
            env,
            // The CRI cannot remove a variable (`env_unset`).
            unset_env: _,
            labels,
            mounts,
            interactive,
            memory,
            shared_memory,
            cpu,
            gpus,
            user,
            groups,
            working_dir,
            tcp_ports,
            hostname,
            stop_grace,
            stop_signal,
            oom_score_adj,
        } = spec;

        let own = |root: &PathBuf| root.join(scope.as_str()).join(nonce.as_str());
        let mut annotations = Annotations {
            image: image.to_string(),
            memory,
            cpu_count: match cpu {
                CpuLimit::Count(count) => Some(count),
                CpuLimit::None | CpuLimit::Shares(_) => None,
            },
            terminal: interactive == Interactive::Terminal,
            stdin: interactive != Interactive::No,
            stop_grace: stop_grace.as_secs(),
            stop_signal,
            logs: settings.logs.then(|| own(&settings.log_dir)),
            shared_memory: shared_memory.map(|_| own(&settings.state_dir).join("shm")),
            hosts: (settings.hosts && !mounts.iter().any(|mount| covers(&mount.target, HOSTS)))
                .then(|| own(&settings.state_dir).join("hosts")),
            ..Annotations::default()
        };
        let (managed, labels): (BTreeMap<_, _>, BTreeMap<_, _>) =
            labels.into_iter().partition(|(key, _)| key.starts_with(runtime_core::LABEL_PREFIX));
        let mut labels = annotations.store_long(labels);
        labels.extend(managed.clone());

        let namespaces = cri::NamespaceOption {
            network: cri::NamespaceMode::Pod.into(),
            pid: cri::NamespaceMode::Container.into(),
            ipc: cri::NamespaceMode::Pod.into(),
            ..Default::default()
        };
        let seccomp = cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
            ..Default::default()
        };
        let sandbox = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_string(),
                uid: SANDBOX_NAMESPACE.to_owned(),
                namespace: SANDBOX_NAMESPACE.to_owned(),
                attempt: 0,
            }),
            // The default of the engine is the name of the host. Docker uses a part of the id.
            hostname: hostname.unwrap_or_else(|| nonce.as_str().chars().take(12).collect()),
            log_directory: text(annotations.logs.as_ref()),
            labels: managed,
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: settings.cgroup_parent.clone().unwrap_or_default(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces.clone()),
                    seccomp: Some(seccomp.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };

        let mut security = cri::LinuxContainerSecurityContext {
            namespace_options: Some(namespaces),
            seccomp: Some(seccomp),
            masked_paths: MASKED_PATHS.map(str::to_owned).into(),
            readonly_paths: READ_ONLY_PATHS.map(str::to_owned).into(),
            supplemental_groups: groups.iter().filter_map(|group| group.parse().ok()).collect(),
            ..Default::default()
        };
        if let Some(user) = &user {
            set_user(&mut security, user);
        }
        let mut resources = cri::LinuxContainerResources {
            oom_score_adj: oom_score_adj.into(),
            memory_limit_in_bytes: memory.map_or(0, signed),
            ..Default::default()
        };
        match cpu {
            CpuLimit::None => {}
            CpuLimit::Shares(shares) => resources.cpu_shares = signed(shares),
            CpuLimit::Count(count) => {
                #[expect(clippy::cast_possible_truncation, reason = "at most 100,000 periods")]
                let (period, quota) =
                    (CPU_PERIOD_MICROS as i64, (count * CPU_PERIOD_MICROS).round() as i64);
                (resources.cpu_period, resources.cpu_quota) = (period, quota);
            }
        }
        let mut cri_mounts: Vec<_> = mounts
            .iter()
            .map(|mount| cri::Mount {
                container_path: mount.target.clone(),
                host_path: text(Some(&mount.source)),
                readonly: mount.access == MountAccess::ReadOnly,
                propagation: cri::MountPropagation::PropagationPrivate.into(),
                ..Default::default()
            })
            .collect();
        if let Some(path) = &annotations.shared_memory {
            // The engine omits its own /dev/shm of fixed size if a mount replaces it.
            cri_mounts.push(cri::Mount {
                container_path: "/dev/shm".to_owned(),
                host_path: text(Some(path)),
                ..Default::default()
            });
        }
        if let Some(file) = &annotations.hosts {
            // The file of the engine is a copy of the host's, without the name of the container.
            cri_mounts.push(cri::Mount {
                container_path: HOSTS.to_owned(),
                host_path: text(Some(file)),
                selinux_relabel: true,
                ..Default::default()
            });
        }
        let container = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.to_string(), attempt: 0 }),
            command: command.unwrap_or_default(),
            working_dir: working_dir.unwrap_or_default(),
            envs: env
                .into_iter()
                .map(|(key, value)| cri::KeyValue { key, value: value.into_bytes() })
                .collect(),
            mounts: cri_mounts,
            labels,
            log_path: if annotations.logs.is_some() { LOG_FILE.to_owned() } else { String::new() },
            stdin: interactive != Interactive::No,
            // Otherwise stdin of the process would not end with that of an attach session.
            stdin_once: interactive != Interactive::No,
            tty: interactive == Interactive::Terminal,
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(resources),
                security_context: Some(security),
            }),
            cdi_devices: match gpus {
                Gpus::Ids(ids) => ids
                    .iter()
                    .map(|id| cri::CdiDevice { name: format!("{}={id}", settings.gpu_kind) })
                    .collect(),
                _ => Vec::new(),
            },
            args: arguments.clone().unwrap_or_default(),
            ..Default::default()
        };
        Self {
            name: name.to_string(),
            nonce,
            image,
            auth,
            pull_policy,
            tcp_ports,
            shared_memory,
            mounts,
            annotations,
            sandbox,
            container,
            arguments_are_given: arguments.is_some(),
        }
    }

    /// Sets the image. `has_groups` is true if the engine finds the groups of the image's user.
    ///
    /// # Errors
    /// `InvalidArgument` if the image lacks an entrypoint that the spec relies on; `Unsupported` if its
    /// user has a group that the CRI has no field for.
    pub(crate) fn set_image(&mut self, image: &ImageOnEngine, has_groups: bool) -> Result<()> {
        self.annotations.image_id = Some(image.id.clone());
        self.annotations.resolved.clone_from(&image.resolved);
        // By its id, so that a tag that moves does not change the image.
        self.container.image = Some(cri::ImageSpec {
            image: image.engine_id.clone(),
            user_specified_image: self.annotations.image.clone(),
            ..Default::default()
        });
        let container = &mut self.container;
        if self.arguments_are_given && container.command.is_empty() && container.args.is_empty() {
            // The engine would replace empty arguments by those of the image.
            if image.config.entrypoint.is_empty() {
                return Err(Error::invalid(
                    "arguments",
                    "they are empty, and the image has no entrypoint",
                ));
            }
            container.command.clone_from(&image.config.entrypoint);
        }
        // The engine uses the user of the image by default, but some versions then set the groups
        // of root.
        let security =
            self.container.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        if let Some(security) = security
            && security.run_as_user.is_none()
            && security.run_as_username.is_empty()
            && let Some(user) = user_of_image(&image.config.user, has_groups)?
        {
            set_user(security, user);
        }
        Ok(())
    }

    /// Sets the reserved ports.
    pub(crate) fn set_ports(&mut self, ports: Vec<TcpPortBinding>) {
        self.sandbox.port_mappings = ports
            .iter()
            .map(|port| cri::PortMapping {
                protocol: cri::Protocol::Tcp.into(),
                container_port: port.container_port.into(),
                host_port: port.host_port.into(),
                host_ip: String::new(),
            })
            .collect();
        let labels = &mut self.sandbox.labels;
        // Labels of an earlier attempt.
        labels.retain(|label, _| !label.starts_with(PORT_LABEL));
        labels.extend(ports.iter().map(|port| port_label(port.host_port)));
        self.annotations.ports = ports;
    }

    /// Returns the content of the container's /etc/hosts, in the format of Docker.
    pub(crate) fn hosts(&self, addresses: &[String]) -> String {
        let mut text = HOSTS_HEAD.to_owned();
        let name = &self.sandbox.hostname;
        // The address that Debian uses for a host without a network.
        let fallback = ["127.0.1.1".to_owned()];
        let addresses = if addresses.is_empty() { &fallback } else { addresses };
        for address in addresses {
            match name.split_once('.') {
                Some((host, _)) => text.push_str(&format!("{address}\t{name} {host}\n")),
                None => text.push_str(&format!("{address}\t{name}\n")),
            }
        }
        text
    }

    /// Returns the configuration of the sandbox.
    pub(crate) fn sandbox(&self) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig { annotations: self.annotations.to_map(), ..self.sandbox.clone() }
    }

    /// Returns the configuration of the container.
    pub(crate) fn container(&self) -> cri::ContainerConfig {
        cri::ContainerConfig { annotations: self.annotations.to_map(), ..self.container.clone() }
    }
}

/// Path of the hosts file in a container.
const HOSTS: &str = "/etc/hosts";

/// Lines of every hosts file, as in Docker.
const HOSTS_HEAD: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Returns whether a mount at `target` replaces or hides the file at `path`.
fn covers(target: &str, path: &str) -> bool {
    let target = target.trim_end_matches('/');
    path.strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Sets the user from `user` or `user:group`. The group is a number.
fn set_user(security: &mut cri::LinuxContainerSecurityContext, user: &str) {
    let (user, group) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
    match user.parse() {
        Ok(value) => security.run_as_user = Some(cri::Int64Value { value }),
        Err(_) => user.clone_into(&mut security.run_as_username),
    }
    security.run_as_group =
        group.and_then(|group| group.parse().ok()).map(|value| cri::Int64Value { value });
}

/// Returns the user of the image for [`set_user`]. The CRI has no field for the name of a group.
fn user_of_image(user: &str, has_groups: bool) -> Result<Option<&str>> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    if name.is_empty() {
        // No user, or one that no engine accepts.
        return Ok(None);
    }
    if group.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Some(user));
    }
    if has_groups {
        return Ok(None);
    }
    Err(Error::unsupported(Capability::GroupName).with_field("user").with_message(format!(
        "the spec has none, and that of the image has a named group: {user}"
    )))
}

fn text(path: Option<&PathBuf>) -> String {
    path.and_then(|path| path.to_str()).unwrap_or_default().to_owned()
}

/// Converts a number that was checked to fit.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use runtime_core::{Capabilities, ContainerSpec, ErrorKind};

    use super::*;
    use crate::model::image::ImageConfig;

    fn plan(spec: ContainerSpec) -> Plan {
        let scope = Scope::new("s").unwrap();
        let mut can = Capabilities::default();
        (can.empty_arguments, can.user, can.user_name) = (true, true, true);
        let settings = Settings {
            log_dir: "/logs".into(),
            state_dir: "/state".into(),
            logs: true,
            hosts: false,
            runtime_handler: None,
            cgroup_parent: None,
            gpu_kind: "nvidia.com/gpu".to_owned(),
            host_ports: runtime_support::ports::HOST_PORTS,
            events: false,
        };
        Plan::new(spec.prepare(&scope, &can).unwrap(), &scope, &settings)
    }

    fn image(user: &str, entrypoint: &[&str]) -> ImageOnEngine {
        let entrypoint = entrypoint.iter().map(|word| (*word).to_owned()).collect();
        let config = ImageConfig { user: user.to_owned(), entrypoint };
        let id = "sha256:1".to_owned();
        ImageOnEngine { engine_id: id.clone(), id, resolved: None, config }
    }

    /// Returns the user by number and by name, and the group of the request.
    fn requested_user(plan: &Plan) -> (Option<i64>, &str, Option<i64>) {
        let security = plan.container.linux.as_ref().and_then(|l| l.security_context.as_ref());
        let security = security.unwrap();
        let value = |id: &Option<cri::Int64Value>| id.as_ref().map(|id| id.value);
        let group = value(&security.run_as_group);
        (value(&security.run_as_user), &security.run_as_username, group)
    }

    #[test]
    fn user_of_the_image_is_the_default() {
        let spec = || ContainerSpec::new("r.io/a:1");
        for (user, expected) in [
            ("", (None, "", None)),
            ("alice", (None, "alice", None)),
            ("alice:7", (None, "alice", Some(7))),
            ("1000:7", (Some(1000), "", Some(7))),
            ("1000:", (Some(1000), "", None)),
            (":7", (None, "", None)),
        ] {
            let mut plan = plan(spec());
            plan.set_image(&image(user, &[]), false).unwrap();
            assert_eq!(requested_user(&plan), expected, "{user:?}");
        }
        for user in ["alice:staff", "1000:staff"] {
            let error = plan(spec()).set_image(&image(user, &[]), false).unwrap_err();
            assert_eq!(error.capability(), Some(Capability::GroupName), "{error:?}");
            let mut left = plan(spec());
            left.set_image(&image(user, &[]), true).unwrap();
            assert_eq!(requested_user(&left), (None, "", None));
            let mut given = plan(spec().user("5:6"));
            given.set_image(&image(user, &[]), false).unwrap();
            assert_eq!(requested_user(&given), (Some(5), "", Some(6)));
        }
    }

    #[test]
    fn empty_arguments_use_the_entrypoint_of_the_image() {
        let spec = || ContainerSpec::new("r.io/a:1").arguments([""; 0]);
        let mut entered = plan(spec());
        entered.set_image(&image("", &["/bin/entry", "x"]), true).unwrap();
        assert_eq!(entered.container.command, ["/bin/entry", "x"]);
        let error = plan(spec()).set_image(&image("", &[]), true).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("arguments")));
        // The engine combines absent and non-empty arguments with the entrypoint.
        for spec in [ContainerSpec::new("r.io/a:1"), spec().arguments(["y"])] {
            let mut plan = plan(spec);
            plan.set_image(&image("", &[]), true).unwrap();
            assert!(plan.container.command.is_empty());
        }
    }
}
