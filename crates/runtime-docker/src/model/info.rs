//! Converts inspected and listed containers to `ContainerInfo`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime_core::{
    ContainerId, ContainerInfo, ContainerStatus, Exit, ExitReason, ImageInfo, Signal,
    TcpPortBinding,
};
use serde::Deserialize;

use super::inspect::{HostConfig, Inspect, State};
use super::labels::own_labels;
use super::time::parse_rfc3339;

/// The label with the requested image reference. The engines do not keep it: Podman replaces it by
/// the digest, and Docker's list by the id once the tag refers to another image.
pub(crate) const LABEL_IMAGE: &str = "container-runtime/image";

impl Inspect {
    /// Returns the status.
    pub(crate) fn status(&self) -> ContainerStatus {
        self.state.lifecycle()
    }

    /// Returns the exit, as far as the engine has it.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.state.exit()
    }

    /// Returns `true` if the container has ended, and its files and networks are still being
    /// released. Only Podman reports this state.
    pub(crate) fn is_being_cleaned_up(&self) -> bool {
        self.state.status == "stopped"
    }

    /// Returns `true` if the container may have been killed by the memory limit, and the engine does
    /// not report it.
    pub(crate) fn is_unexplained_kill(&self) -> bool {
        self.host_config.memory > 0 && self.state.is_killed() && !self.state.oom_killed
    }

    pub(crate) fn id(&self) -> ContainerId {
        ContainerId::new(&self.id)
    }

    pub(crate) fn name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.config.labels.as_ref().unwrap_or(&NONE)
    }

    /// Returns the result of [`Container::info`](runtime_core::Container::info). `known` is the
    /// exit that this process has cached.
    pub(crate) fn info(&self, known: Option<Exit>) -> ContainerInfo {
        let exit = known.or_else(|| self.exit());
        // Podman does not record a failed start. This process does.
        let status = if exit.is_some() { ContainerStatus::Exited } else { self.status() };
        let mut info = ContainerInfo::new(self.id(), self.name(), status);
        info.image = image_info(&self.config.image, &self.image, self.labels());
        info.labels = own_labels(self.labels());
        info.created_at = parse_rfc3339(self.created.as_bytes());
        (info.started_at, info.ended_at) = self.state.times();
        info.message = Some(self.state.error.clone())
            .filter(|message| !message.is_empty())
            .or_else(|| exit.as_ref().and_then(|exit| exit.message.clone()));
        info.exit = exit;
        info.memory = u64::try_from(self.host_config.memory).ok().filter(|bytes| *bytes > 0);
        info.cpu_count = self.host_config.cpus();
        info.tcp_ports = self.tcp_ports(status == ContainerStatus::Running);
        info
    }

    fn tcp_ports(&self, running: bool) -> Vec<TcpPortBinding> {
        if !running {
            return Vec::new();
        }
        let mut ports = BTreeMap::new();
        for (port, bindings) in self.network_settings.ports.iter().flatten() {
            let Some(container_port) = tcp_port(port) else { continue };
            for binding in bindings.iter().flatten() {
                if let Ok(host_port) = binding.host_port.parse::<u16>() {
                    // An engine can publish on different ports on IPv4 and IPv6. The IPv4 port is
                    // used, because every host can reach it.
                    let v4 = !binding.host_ip.contains(':');
                    note_port(&mut ports, container_port, host_port, v4);
                }
            }
        }
        bindings(ports)
    }
}

impl HostConfig {
    #[expect(clippy::cast_precision_loss, reason = "the numbers are far below 2^53")]
    pub(crate) fn cpus(&self) -> Option<f64> {
        if self.nano_cpus > 0 {
            Some(self.nano_cpus as f64 / 1e9)
        } else if self.cpu_quota > 0 && self.cpu_period > 0 {
            Some(self.cpu_quota as f64 / self.cpu_period as f64)
        } else {
            None
        }
    }
}

const UNOBSERVED_EXIT: &str = "the engine did not observe the exit, and reports 255";

impl State {
    fn lifecycle(&self) -> ContainerStatus {
        let status = status_of(&self.status, self.running);
        // The state of a container after a failed start.
        if status == ContainerStatus::Created && (self.exit_code != 0 || !self.error.is_empty()) {
            return ContainerStatus::Exited;
        }
        status
    }

    /// Returns `true` if the exit code is that of a kill.
    fn is_killed(&self) -> bool {
        self.exit_code == 128 + i64::from(Signal::KILL.number())
            && self.lifecycle() == ContainerStatus::Exited
    }

    /// Returns `true` if the exit code is the one that the engine reports for an unknown code.
    pub(crate) fn may_be_unobserved(&self) -> bool {
        self.exit_code == 255 && self.lifecycle() == ContainerStatus::Exited
    }

    fn exit(&self) -> Option<Exit> {
        if self.lifecycle() != ContainerStatus::Exited {
            return None;
        }
        if self.is_exit_unobserved {
            return Some(Exit::new(ExitReason::Unknown).with_message(UNOBSERVED_EXIT));
        }
        let (started_at, ended_at) = self.times();
        if started_at.is_none() && ended_at.is_none() {
            // Never started, or failed to start. The exit code is set by the engine.
            let going = self.dead || self.status == "removing" || self.status == "dead";
            let reason = match going && self.error.is_empty() {
                true => ExitReason::Removed,
                false => ExitReason::StartFailed,
            };
            return Some(Exit::new(reason).with_message(&*self.error));
        }
        let code = i32::try_from(self.exit_code).ok();
        let exit = match code {
            Some(code) if code >= 0 => Exit::from_code(code),
            _ => Exit::new(ExitReason::Unknown),
        };
        let mut exit = exit.with_ended_at(ended_at).with_message(&*self.error);
        if self.oom_killed && exit.signal == Some(Signal::KILL) {
            exit = exit.with_reason(ExitReason::OutOfMemory);
        } else if self.status == "removing" && exit.signal == Some(Signal::KILL) {
            exit = removed(&exit);
        }
        Some(exit)
    }

    /// Returns the times of start and end. The engines may take the start time after the process
    /// has run, so the times of a short run can be out of order. The start is then set to the end.
    fn times(&self) -> (Option<SystemTime>, Option<SystemTime>) {
        let started = parse_rfc3339(self.started_at.as_bytes());
        let ended = parse_rfc3339(self.finished_at.as_bytes())
            .filter(|_| !self.running && !self.is_exit_unobserved);
        match (started, ended) {
            (Some(started), Some(ended)) => (Some(started.min(ended)), Some(ended)),
            times => times,
        }
    }
}

/// Returns the exit of a container that a removal killed, without the exit code of the kill.
pub(crate) fn removed(exit: &Exit) -> Exit {
    Exit::new(ExitReason::Removed).with_ended_at(exit.ended_at)
}

/// Converts the engine's name of a state. An unknown name is ignored in favour of `running`.
fn status_of(name: &str, running: bool) -> ContainerStatus {
    match name {
        "created" | "configured" | "initialized" => ContainerStatus::Created,
        "running" | "paused" | "restarting" | "stopping" => ContainerStatus::Running,
        "exited" | "dead" | "stopped" | "removing" => ContainerStatus::Exited,
        _ if running => ContainerStatus::Running,
        _ => ContainerStatus::Exited,
    }
}

/// One container in the response of `/containers/json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Summary {
    pub(crate) id: String,
    pub(crate) names: Option<Vec<String>>,
    pub(crate) image: String,
    #[serde(rename = "ImageID")]
    pub(crate) image_id: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
    pub(crate) ports: Option<Vec<SummaryPort>>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) state: String,
    /// Such as `Up 2 minutes`.
    pub(crate) status: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct SummaryPort {
    #[serde(rename = "IP")]
    pub(crate) ip: Option<String>,
    pub(crate) private_port: u16,
    pub(crate) public_port: Option<u16>,
    #[serde(rename = "Type")]
    pub(crate) protocol: String,
}

impl Summary {
    /// Returns the name, without the names from links to other containers.
    pub(crate) fn name(&self) -> &str {
        let names = self.names.as_deref().unwrap_or_default();
        let own = names.iter().find(|name| !name.trim_start_matches('/').contains('/'));
        own.or(names.first()).map_or("", |name| name.trim_start_matches('/'))
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        status_of(&self.state, self.status.starts_with("Up"))
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// Returns the creation time.
    pub(crate) fn created_at(&self) -> Option<SystemTime> {
        let seconds = u64::try_from(self.created).ok().filter(|seconds| *seconds > 0)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// Returns the info of a listed container. `known` is the exit that this process has cached.
    pub(crate) fn info(&self, known: Option<Exit>) -> ContainerInfo {
        let status = if known.is_some() { ContainerStatus::Exited } else { self.status() };
        let mut info = ContainerInfo::new(ContainerId::new(&self.id), self.name(), status);
        let none = BTreeMap::new();
        let labels = self.labels.as_ref().unwrap_or(&none);
        info.image = image_info(&self.image, &self.image_id, labels);
        info.labels = own_labels(labels);
        info.created_at = self.created_at();
        info.ended_at = known.as_ref().and_then(|exit| exit.ended_at);
        info.message = known.as_ref().and_then(|exit| exit.message.clone());
        info.exit = known;
        if status == ContainerStatus::Running {
            let mut ports = BTreeMap::new();
            for port in self.ports.iter().flatten().filter(|port| port.protocol == "tcp") {
                if let Some(public) = port.public_port.filter(|public| *public != 0) {
                    let v4 = !port.ip.as_ref().is_some_and(|ip| ip.contains(':'));
                    note_port(&mut ports, port.private_port, public, v4);
                }
            }
            info.tcp_ports = bindings(ports);
        }
        info
    }
}

fn note_port(ports: &mut BTreeMap<u16, (bool, u16)>, container: u16, host: u16, v4: bool) {
    let entry = ports.entry(container).or_insert((v4, host));
    if v4 && !entry.0 {
        *entry = (v4, host);
    }
}

fn bindings(ports: BTreeMap<u16, (bool, u16)>) -> Vec<TcpPortBinding> {
    ports
        .into_iter()
        .map(|(container_port, (_, host_port))| TcpPortBinding { host_port, container_port })
        .collect()
}

/// Parses a port such as `80/tcp`.
fn tcp_port(port: &str) -> Option<u16> {
    match port.split_once('/') {
        Some((port, "tcp")) => port.parse().ok(),
        Some(_) => None,
        None => port.parse().ok(),
    }
}

fn image_info(named: &str, id: &str, labels: &BTreeMap<String, String>) -> ImageInfo {
    let mut image = ImageInfo::default();
    image.requested = labels.get(LABEL_IMAGE).cloned();
    if image.requested.is_none() && !named.is_empty() {
        image.requested = Some(named.to_owned());
    }
    image.resolved = Some(named.to_owned()).filter(|named| named.contains('@'));
    image.id = Some(id.to_owned()).filter(|id| !id.is_empty()).map(|id| {
        // Podman omits the algorithm in some responses.
        if id.len() == 64 { format!("sha256:{id}") } else { id }
    });
    image
}
