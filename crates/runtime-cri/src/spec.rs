//! Our spec as the engine's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use runtime_core::{
    CpuLimit, Gpus, Interactive, MountAccess, Nonce, PreparedSpec, RegistryAuth, Scope,
    TcpPortBinding,
};

use crate::generated as cri;
use crate::images::ImageOnEngine;
use crate::notes::{LOG_FILE, Notes};

/// What stands in the metadata of every sandbox beside the name. The engine refuses a second
/// sandbox with the same metadata: with these fixed, a name can be taken once on one engine.
const METADATA: &str = "container-runtime";

/// The length of a period of the CPU quota, in microseconds: the kernel's default.
const CPU_PERIOD: f64 = 100_000.0;

/// What Docker and the kubelet hide from every container that is not privileged.
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

/// What they let nobody write to.
const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What of the options goes into the requests.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) log_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// Whether the engine writes where we read.
    pub(crate) logs: bool,
    pub(crate) runtime_handler: Option<String>,
    pub(crate) cgroup_parent: Option<String>,
    pub(crate) gpu_kind: String,
    /// Whether the engine's events are listened to.
    pub(crate) events: bool,
}

/// Everything that a create asks the engine for.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) nonce: Nonce,
    pub(crate) image: runtime_core::ImageRef,
    pub(crate) auth: Option<RegistryAuth>,
    pub(crate) pull_policy: runtime_core::PullPolicy,
    /// The ports to publish.
    pub(crate) tcp_ports: Vec<u16>,
    /// The size of /dev/shm.
    pub(crate) shared_memory: Option<u64>,
    pub(crate) mounts: Vec<runtime_core::Mount>,
    pub(crate) notes: Notes,
    sandbox: cri::PodSandboxConfig,
    container: cri::ContainerConfig,
    arguments_are_given: bool,
}

impl Plan {
    /// Decides on everything but the image and the ports.
    pub(crate) fn new(spec: PreparedSpec, scope: &Scope, settings: &Settings) -> Self {
        // Taken apart whole, so that a new field does not compile until it is decided on here.
        let PreparedSpec {
            image,
            auth,
            pull_policy,
            name,
            nonce,
            command,
            arguments,
            env,
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

        let own = |folder: &PathBuf| folder.join(scope.as_str()).join(nonce.as_str());
        let mut notes = Notes {
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
            ..Notes::default()
        };
        let (managed, labels): (BTreeMap<_, _>, BTreeMap<_, _>) =
            labels.into_iter().partition(|(key, _)| key.starts_with(runtime_core::LABEL_PREFIX));
        let mut labels = notes.keep_long(labels);
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
                uid: METADATA.to_owned(),
                namespace: METADATA.to_owned(),
                attempt: 0,
            }),
            // Without one the engine takes that of the host; Docker takes a part of the id.
            hostname: hostname.unwrap_or_else(|| nonce.as_str().chars().take(12).collect()),
            log_directory: text(notes.logs.as_ref()),
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
                let (period, quota) = (CPU_PERIOD as i64, (count * CPU_PERIOD).round() as i64);
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
        if let Some(folder) = &notes.shared_memory {
            // The engine leaves its own /dev/shm of fixed size out where there is one here.
            cri_mounts.push(cri::Mount {
                container_path: "/dev/shm".to_owned(),
                host_path: text(Some(folder)),
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
            log_path: if notes.logs.is_some() { LOG_FILE.to_owned() } else { String::new() },
            stdin: interactive != Interactive::No,
            // Without it the input of the process would not end with that of an attach.
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
            notes,
            sandbox,
            container,
            arguments_are_given: arguments.is_some(),
        }
    }

    /// Takes the image that the engine has for it.
    pub(crate) fn set_image(&mut self, image: &ImageOnEngine) {
        self.notes.image_id = Some(image.id.clone());
        self.notes.resolved.clone_from(&image.resolved);
        // By its id, so that it is this image even if the tag is moved meanwhile.
        self.container.image = Some(cri::ImageSpec {
            image: image.id.clone(),
            user_specified_image: self.notes.image.clone(),
            ..Default::default()
        });
        if self.container.command.is_empty() && self.arguments_are_given {
            // Empty arguments would be taken for none, and the image's would come in their place.
            if self.container.args.is_empty() {
                self.container.command.clone_from(&image.config.entrypoint);
            }
        }
        // The engine runs the container as the image's user by itself, but then gives it the
        // groups of root.
        let security =
            self.container.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        if let Some(security) = security
            && security.run_as_user.is_none()
            && security.run_as_username.is_empty()
            && !image.config.user.is_empty()
            && is_understood(&image.config.user)
        {
            set_user(security, &image.config.user);
        }
    }

    /// Takes the ports that were reserved.
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
        self.notes.ports = ports;
    }

    /// The sandbox to ask for.
    pub(crate) fn sandbox(&self) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig { annotations: self.notes.annotations(), ..self.sandbox.clone() }
    }

    /// The container to ask for.
    pub(crate) fn container(&self) -> cri::ContainerConfig {
        cri::ContainerConfig { annotations: self.notes.annotations(), ..self.container.clone() }
    }
}

/// `user` or `user:group`, where the group is a number.
fn set_user(security: &mut cri::LinuxContainerSecurityContext, user: &str) {
    let (user, group) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
    match user.parse() {
        Ok(value) => security.run_as_user = Some(cri::Int64Value { value }),
        Err(_) => user.clone_into(&mut security.run_as_username),
    }
    security.run_as_group =
        group.and_then(|group| group.parse().ok()).map(|value| cri::Int64Value { value });
}

/// Whether [`set_user`] can say it: the CRI has no place for the name of a group.
fn is_understood(user: &str) -> bool {
    user.split_once(':').is_none_or(|(user, group)| {
        !user.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn text(path: Option<&PathBuf>) -> String {
    path.and_then(|path| path.to_str()).unwrap_or_default().to_owned()
}

/// The spec was checked to fit.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
