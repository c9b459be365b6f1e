//! Our spec as the body of the engine's create.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, MountType,
    PortBinding,
};
use runtime_core::{
    ContainerName, CpuLimit, Error, Gpus, ImageRef, Interactive, MountAccess, Nonce, PreparedSpec,
    PullPolicy, RegistryAuth, Result,
};

use crate::engine::{Engine, Flavour};
use crate::info::LABEL_IMAGE;
use crate::labels::{LABEL_OWN, own_as_text};

/// A create, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Create {
    pub(crate) name: ContainerName,
    pub(crate) nonce: Nonce,
    pub(crate) image: ImageRef,
    pub(crate) auth: Option<RegistryAuth>,
    pub(crate) pull_policy: PullPolicy,
    pub(crate) stop_grace: Duration,
    pub(crate) body: ContainerCreateBody,
}

impl Create {
    /// # Errors
    /// `InvalidArgument` for what does not fit into the engine's numbers.
    pub(crate) fn new(spec: PreparedSpec, engine: &Engine) -> Result<Self> {
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
        let (cpu_shares, nano_cpus) = match cpu {
            CpuLimit::None => (None, None),
            CpuLimit::Shares(shares) => (Some(signed("cpu_shares", shares)?), None),
            CpuLimit::Count(count) => (None, Some(nano_cpus(count))),
        };
        let memory = memory.map(|bytes| signed("memory", bytes)).transpose()?;
        let stdin = interactive != Interactive::No;
        let ports: Vec<String> = tcp_ports.iter().map(|port| format!("{port}/tcp")).collect();
        let host_config = HostConfig {
            memory,
            // Unset, it would be twice the memory: the limit, and as much again of swap.
            memory_swap: memory,
            shm_size: shared_memory.map(|bytes| signed("shared_memory", bytes)).transpose()?,
            cpu_shares,
            nano_cpus,
            device_requests: device_request(&gpus, engine).map(|request| vec![request]),
            group_add: some(groups),
            oom_score_adj: Some(oom_score_adj.into()),
            mounts: some(mounts.iter().map(bind).collect()),
            port_bindings: (!ports.is_empty())
                .then(|| ports.iter().map(|port| (port.clone(), Some(vec![any_port()]))).collect()),
            log_config: log_driver(engine)
                .map(|driver| HostConfigLogConfig { typ: Some(driver.to_owned()), config: None }),
            ..HostConfig::default()
        };
        let own = own_as_text(&labels);
        let mut labels: HashMap<String, String> = labels.into_iter().collect();
        labels.insert(LABEL_OWN.to_owned(), own);
        labels.insert(LABEL_IMAGE.to_owned(), image.to_string());
        let body = ContainerCreateBody {
            image: Some(engine_name(&image)),
            entrypoint: command,
            cmd: arguments,
            env: Some(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
            labels: Some(labels),
            hostname,
            user,
            working_dir,
            exposed_ports: some(ports),
            open_stdin: Some(stdin),
            // With the end of the first attach its input ends: what reads to the end of its
            // input could not come to an end otherwise.
            stdin_once: Some(stdin),
            tty: Some(interactive == Interactive::Terminal),
            stop_signal: stop_signal.map(|signal| signal.to_string()),
            stop_timeout: Some(i64::try_from(stop_grace.as_secs()).unwrap_or(i64::MAX)),
            host_config: Some(host_config),
            ..ContainerCreateBody::default()
        };
        Ok(Self { name, nonce, image, auth, pull_policy, stop_grace, body })
    }

    /// Whether the spec asks for no arguments at all. An engine takes an empty list for none
    /// given, and would use the image's: the image's entrypoint has to be given with it.
    pub(crate) fn wants_no_arguments(&self) -> bool {
        self.body.entrypoint.is_none() && self.body.cmd.as_ref().is_some_and(Vec::is_empty)
    }
}

/// The name by which the engine is asked for an image. A digest says all; the tag beside it, which
/// some engines do not take, says nothing more.
pub(crate) fn engine_name(image: &ImageRef) -> String {
    match image.digest() {
        Some(digest) if !image.is_id() => format!("{}@{digest}", image.name()),
        _ => image.to_string(),
    }
}

/// The log driver to ask for. Where the engine's own default keeps the log in files of its own,
/// with the options that its operator has given, that one is taken. Any other default would make
/// the logs unreadable or lossy: `none` keeps nothing, and of what is sent elsewhere (syslog,
/// fluentd, clouds) Docker keeps no more than a small cache.
fn log_driver(engine: &Engine) -> Option<&'static str> {
    match (engine.flavour, engine.info.logging_driver.as_str()) {
        (Flavour::Docker, "json-file" | "local") => None,
        (Flavour::Docker, _) => Some("json-file"),
        (Flavour::Podman, _) => Some("k8s-file"),
    }
}

/// Whether that driver keeps what is not UTF-8. Docker's `json-file` stores lines as JSON text, and
/// puts U+FFFD in the place of such bytes.
pub(crate) fn keeps_bytes(engine: &Engine) -> bool {
    engine.flavour == Flavour::Podman || engine.info.logging_driver == "local"
}

fn signed(field: &str, number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::invalid(field, format!("{number} is too much")))
}

#[expect(clippy::cast_possible_truncation, reason = "core checks that it is 0.01 to 100000")]
fn nano_cpus(count: f64) -> i64 {
    (count * 1e9).round() as i64
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A mount that fails where the source is not there; a bind of the older form would make it.
fn bind(mount: &runtime_core::Mount) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.to_string_lossy().into_owned()),
        target: Some(mount.target.clone()),
        read_only: Some(mount.access == MountAccess::ReadOnly),
        ..Mount::default()
    }
}

/// A free port of the host, on all of its IPv4 addresses. Without an address the engine would take
/// a second one for IPv6, with another number.
fn any_port() -> PortBinding {
    PortBinding { host_ip: Some("0.0.0.0".to_owned()), host_port: Some(String::new()) }
}

fn device_request(gpus: &Gpus, engine: &Engine) -> Option<DeviceRequest> {
    let by_runtime = |count, ids| DeviceRequest {
        count,
        device_ids: ids,
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    };
    match gpus {
        _ if gpus.is_none() => None,
        Gpus::Count(count) => Some(by_runtime(Some(i64::from(*count)), None)),
        Gpus::Ids(ids) if engine.info.has_nvidia_runtime() => {
            Some(by_runtime(None, Some(ids.clone())))
        }
        Gpus::Ids(ids) => Some(DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(ids.iter().map(|id| format!("nvidia.com/gpu={id}")).collect()),
            ..DeviceRequest::default()
        }),
        // What core adds to the list of ways has no capability here, and so does not come here.
        _ => None,
    }
}
