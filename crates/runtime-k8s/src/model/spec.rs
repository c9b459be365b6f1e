//! Conversion of a spec to a pod.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Affinity, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HostPathVolumeSource,
    Lifecycle, LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement,
    NodeSelectorTerm, Pod, PodAffinity, PodAffinityTerm, PodOS, PodSchedulingGate,
    PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, SecurityContext, Toleration,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use runtime_core::{
    Capability, CpuLimit, Error, Gpus, Interactive, LABEL_PREFIX, Mount, MountAccess, MountKind,
    PreparedSpec, PullPolicy, RegistryAuth, Result, Signal,
};

use crate::model::labels;
use crate::model::pod::gate::StartGate;
use crate::options::{KubernetesOptions, MountSources};

/// Maximum size of all annotations of an object, keys and values: `TotalAnnotationSizeLimitB` of
/// the API server.
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;

/// A pod to be created, and the objects that belong to it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) pod: Pod,
    /// The pod's name.
    pub(crate) name: String,
    /// The nonce of the create, which identifies the pod.
    pub(crate) nonce: String,
    /// A Secret for the pull of the image.
    pub(crate) secret: Option<PullSecret>,
    /// Whether it gets a disruption budget.
    pub(crate) budget: bool,
    /// The labels of all objects of the container.
    pub(crate) labels: BTreeMap<String, String>,
    /// The mounts whose kinds a node has to report.
    pub(crate) unknown_mounts: Vec<usize>,
    /// Whether the pod has a stop signal, which a server may drop.
    pub(crate) has_stop_signal: bool,
}

impl Plan {
    /// Replaces the gate of the pod.
    pub(crate) fn set_gate(&mut self, gate: StartGate) {
        let spec = self.pod.spec.get_or_insert_default();
        spec.scheduling_gates = (gate == StartGate::SchedulingGate)
            .then(|| vec![PodSchedulingGate { name: labels::GATE.to_owned() }]);
        let pods = (gate == StartGate::Affinity).then(|| released_by(&self.nonce));
        let nodes = spec.affinity.take().and_then(|affinity| affinity.node_affinity);
        if pods.is_some() || nodes.is_some() {
            spec.affinity =
                Some(Affinity { node_affinity: nodes, pod_affinity: pods, ..Affinity::default() });
        }
    }
}

/// A login that is stored in a Secret.
#[derive(Debug)]
pub(crate) struct PullSecret {
    pub(crate) registry: String,
    pub(crate) auth: RegistryAuth,
}

/// Returns the name of the Secret and of the disruption budget of a container.
pub(crate) fn belonging_name(nonce: &str) -> String {
    format!("container-{nonce}")
}

/// Builds the pod of a container. `host_ports` has one port for each port that the spec publishes.
pub(crate) fn plan(
    spec: PreparedSpec,
    options: &KubernetesOptions,
    gate: StartGate,
    host_ports: &[u16],
    auth: Option<RegistryAuth>,
) -> Result<Plan> {
    // Destructured without `..`, so that a new field does not compile until it is handled here.
    let PreparedSpec {
        image,
        // The caller has resolved it.
        auth: _,
        pull_policy,
        name,
        nonce,
        command,
        arguments,
        env,
        // No field of a pod removes a variable (`env_unset`).
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
        // The kubelet derives it from the QoS class of the pod, and the class from the requests:
        // 1000 for a pod without requests. See `resources`.
        oom_score_adj,
    } = spec;
    if image.is_id() {
        return Err(Error::invalid("image", "nodes of a cluster do not support image ids"));
    }
    let pod_name = labels::pod_name(&name);
    let nonce = nonce.to_string();
    let secret = auth.map(|auth| PullSecret {
        registry: auth.server_address.clone().unwrap_or_else(|| image.registry().to_owned()),
        auth,
    });
    let budget = options.eviction == crate::VoluntaryEviction::Refused;

    let (volumes, volume_mounts) = volumes(&mounts, shared_memory, options.mount_sources)?;
    let (run_as_user, run_as_group) = user_and_group(user.as_deref())?;
    let container = Container {
        name: labels::CONTAINER.to_owned(),
        image: Some(image.to_string()),
        image_pull_policy: Some(
            match pull_policy {
                PullPolicy::Always => "Always",
                PullPolicy::Missing => "IfNotPresent",
                PullPolicy::Never => "Never",
            }
            .to_owned(),
        ),
        command: command.map(|words| words.iter().map(|word| escape(word)).collect()),
        args: arguments.map(|words| words.iter().map(|word| escape(word)).collect()),
        env: Some(
            env.into_iter()
                .map(|(name, value)| EnvVar {
                    name,
                    value: Some(escape(&value)),
                    ..EnvVar::default()
                })
                .collect(),
        ),
        working_dir,
        ports: Some(
            tcp_ports
                .iter()
                .zip(host_ports)
                .map(|(&container, &host)| ContainerPort {
                    container_port: container.into(),
                    host_port: Some(host.into()),
                    protocol: Some("TCP".to_owned()),
                    ..ContainerPort::default()
                })
                .collect(),
        ),
        resources: Some(resources(
            memory,
            cpu,
            &gpus,
            oom_score_adj,
            options.gpu_resource.as_deref(),
        )),
        volume_mounts: Some(volume_mounts),
        stdin: Some(interactive != Interactive::No),
        // A session with the main process can close stdin.
        stdin_once: Some(interactive != Interactive::No),
        tty: Some(interactive == Interactive::Terminal),
        lifecycle: stop_signal
            .map(|signal| -> Result<Lifecycle> {
                Ok(Lifecycle { stop_signal: Some(signal_name(signal)?), ..Lifecycle::default() })
            })
            .transpose()?,
        security_context: Some(SecurityContext {
            run_as_user,
            run_as_group,
            ..SecurityContext::default()
        }),
        ..Container::default()
    };
    let spec = PodSpec {
        containers: vec![container],
        restart_policy: Some("Never".to_owned()),
        enable_service_links: Some(false),
        automount_service_account_token: Some(false),
        termination_grace_period_seconds: Some(whole_seconds(stop_grace)),
        hostname: hostname.map(|hostname| host_label(&hostname)).transpose()?,
        volumes: Some(volumes),
        security_context: Some(PodSecurityContext {
            // The default of Docker and containerd. Without it the kubelet runs a container without
            // a filter.
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            supplemental_groups: Some(
                groups.iter().map(|group| number("groups", group)).collect::<Result<_>>()?,
            ),
            ..PodSecurityContext::default()
        }),
        image_pull_secrets: Some(
            secret
                .iter()
                .map(|_| belonging_name(&nonce))
                .chain(options.image_pull_secrets.iter().cloned())
                .map(|name| LocalObjectReference { name })
                .collect(),
        ),
        // Servers require it with a stop signal.
        os: stop_signal.map(|_| PodOS { name: "linux".to_owned() }),
        affinity: options.node.as_deref().map(bound_to),
        node_selector: Some(options.node_selector.clone()),
        tolerations: Some(options.tolerations.iter().map(toleration).collect()),
        service_account_name: options.service_account.clone(),
        priority_class_name: options.priority_class.clone(),
        runtime_class_name: options.runtime_class.clone(),
        ..PodSpec::default()
    };

    let (ours, theirs): (BTreeMap<_, _>, BTreeMap<_, _>) =
        labels.into_iter().partition(|(key, _)| key.starts_with(LABEL_PREFIX));
    let mut pod_labels = ours.clone();
    for (key, value) in &theirs {
        pod_labels.insert(labels::selection_label(key), labels::selection_value(value));
    }
    let belongings: Vec<&str> =
        secret.iter().map(|_| "secret").chain(budget.then_some("budget")).collect();
    let mut annotations = options.annotations.clone();
    annotations.insert(labels::NAME.to_owned(), name.to_string());
    annotations.insert(labels::IMAGE.to_owned(), image.to_string());
    annotations.insert(labels::LABELS.to_owned(), json(&theirs)?);
    if !belongings.is_empty() {
        annotations.insert(labels::BELONGINGS.to_owned(), belongings.join(","));
    }
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    // Reserved for the annotations of a start, a stop or a verdict.
    if size + 4096 > ANNOTATION_BYTES_MAX {
        return Err(Error::invalid(
            "labels",
            format!("{size} bytes exceed the maximum size of a pod's annotations"),
        ));
    }
    let pod = Pod {
        metadata: ObjectMeta {
            name: Some(pod_name.clone()),
            labels: Some(pod_labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        ..Pod::default()
    };
    let asked = options.mount_sources == MountSources::Any;
    let unknown = mounts.iter().enumerate().filter(|(_, mount)| asked && mount.kind.is_none());
    let mut plan = Plan {
        pod,
        name: pod_name,
        nonce,
        secret,
        budget,
        labels: ours,
        unknown_mounts: unknown.map(|(at, _)| at).collect(),
        has_stop_signal: stop_signal.is_some(),
    };
    plan.set_gate(gate);
    Ok(plan)
}

/// Escapes a text for the kubelet, which expands `$(NAME)` in commands, arguments and values, and
/// replaces `$$` by `$`.
fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

fn json(labels: &BTreeMap<String, String>) -> Result<String> {
    serde_json::to_string(labels)
        .map_err(|source| Error::internal("failed to serialize the labels").with_source(source))
}

fn whole_seconds(grace: Duration) -> i64 {
    i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)
}

fn number(field: &str, text: &str) -> Result<i64> {
    text.parse().map_err(|source| {
        Error::invalid(field, format!("{text:?} is not a number")).with_source(source)
    })
}

fn user_and_group(user: Option<&str>) -> Result<(Option<i64>, Option<i64>)> {
    let Some(user) = user else { return Ok((None, None)) };
    Ok(match user.split_once(':') {
        Some((user, group)) => (Some(number("user", user)?), Some(number("user", group)?)),
        None => (Some(number("user", user)?), None),
    })
}

/// Checks a host name. Kubernetes accepts one DNS label, in lower case.
fn host_label(hostname: &str) -> Result<String> {
    if hostname.contains('.') || hostname.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(Error::unsupported(Capability::Hostname).with_field("hostname").with_message(
            format!(
                "{hostname:?}: Kubernetes supports only host names without dots and in lower case"
            ),
        ));
    }
    Ok(hostname.to_owned())
}

/// Returns the Kubernetes name of a signal: the enumeration of `lifecycle.stopSignal` has the
/// real-time signals as `SIGRTMIN+1` to `SIGRTMIN+15` and `SIGRTMAX-14` to `SIGRTMAX-1`.
fn signal_name(signal: Signal) -> Result<String> {
    match signal.number() {
        _ if signal.name().is_some() => Ok(signal.to_string()),
        34 => Ok("SIGRTMIN".to_owned()),
        number @ 35..=49 => Ok(format!("SIGRTMIN+{}", number - 34)),
        number @ 50..=63 => Ok(format!("SIGRTMAX-{}", 64 - number)),
        64 => Ok("SIGRTMAX".to_owned()),
        _ => Err(Error::unsupported(Capability::StopSignal)
            .with_field("stop_signal")
            .with_message(format!("signal {signal} has no name in Kubernetes"))),
    }
}

/// Returns the type of a host path volume for a kind of source. The node has no check for a FIFO.
pub(crate) fn volume_type(kind: MountKind) -> Option<String> {
    match kind {
        MountKind::Directory => Some("Directory"),
        MountKind::File => Some("File"),
        MountKind::Socket => Some("Socket"),
        MountKind::CharDevice => Some("CharDevice"),
        MountKind::BlockDevice => Some("BlockDevice"),
        _ => None,
    }
    .map(str::to_owned)
}

fn volumes(
    mounts: &[Mount],
    shared_memory: Option<u64>,
    sources: MountSources,
) -> Result<(Vec<Volume>, Vec<VolumeMount>)> {
    let mut volumes = Vec::new();
    let mut inside = Vec::new();
    for (at, mount) in mounts.iter().enumerate() {
        let name = labels::volume(at);
        let Some(path) = mount.source.to_str() else {
            return Err(Error::invalid(format!("mounts[{at}].source"), "is not UTF-8"));
        };
        // The API server refuses it: `must not contain ':'`.
        if mount.target.contains(':') {
            return Err(Error::invalid(format!("mounts[{at}].target"), "must not contain ':'"));
        }
        volumes.push(Volume {
            name: name.clone(),
            host_path: Some(HostPathVolumeSource {
                path: path.to_owned(),
                type_: match (mount.kind, sources) {
                    (Some(kind), _) => volume_type(kind),
                    (None, MountSources::Folders) => Some("Directory".to_owned()),
                    (None, MountSources::Files) => Some("File".to_owned()),
                    (None, MountSources::Any | MountSources::Unchecked) => None,
                },
            }),
            ..Volume::default()
        });
        inside.push(VolumeMount {
            name,
            mount_path: mount.target.clone(),
            read_only: Some(mount.access == MountAccess::ReadOnly),
            ..VolumeMount::default()
        });
    }
    if let Some(bytes) = shared_memory {
        volumes.push(Volume {
            name: "shared-memory".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity(bytes.to_string())),
            }),
            ..Volume::default()
        });
        inside.push(VolumeMount {
            name: "shared-memory".to_owned(),
            mount_path: "/dev/shm".to_owned(),
            ..VolumeMount::default()
        });
    }
    Ok((volumes, inside))
}

fn resources(
    memory: Option<u64>,
    cpu: CpuLimit,
    gpus: &Gpus,
    oom_score_adj: i32,
    gpu_resource: Option<&str>,
) -> ResourceRequirements {
    let mut limits = BTreeMap::new();
    let mut requests = BTreeMap::new();
    if let Some(bytes) = memory {
        limits.insert("memory".to_owned(), Quantity(bytes.to_string()));
    }
    match cpu {
        CpuLimit::None => {}
        CpuLimit::Count(count) => {
            limits.insert("cpu".to_owned(), Quantity(format!("{}m", milli(count))));
        }
        CpuLimit::Shares(shares) => {
            // The kubelet converts a request of 1000m to the weight 1024.
            let milli = (u128::from(shares) * 1000).div_ceil(1024);
            requests.insert("cpu".to_owned(), Quantity(format!("{milli}m")));
        }
    }
    if let (Gpus::Count(count @ 1..), Some(resource)) = (gpus, gpu_resource) {
        limits.insert(resource.to_owned(), Quantity(count.to_string()));
    }
    // GPUs do not count for the QoS class of a pod. The smallest request removes it from the class
    // that is killed first.
    let asks = ["cpu", "memory"];
    if oom_score_adj < runtime_core::OOM_SCORE_ADJ_EVICTABLE
        && !asks.iter().any(|&name| limits.contains_key(name) || requests.contains_key(name))
    {
        requests.insert("cpu".to_owned(), Quantity("1m".to_owned()));
    }
    ResourceRequirements {
        limits: Some(limits),
        requests: Some(requests),
        ..ResourceRequirements::default()
    }
}

/// Returns CPUs in the unit of Kubernetes, thousandths of a CPU.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0.01 to 100000")]
fn milli(cpus: f64) -> u64 {
    (cpus * 1000.0).round() as u64
}

/// Returns the affinity to the one node.
fn bound_to(node: &str) -> Affinity {
    // The field with the name of the node, because a label may be missing.
    let term = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: "metadata.name".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node.to_owned()]),
        }]),
        ..NodeSelectorTerm::default()
    };
    Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![term],
            }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// Returns the affinity to the label that a pod without a gate gets at its start.
fn released_by(nonce: &str) -> PodAffinity {
    let term = PodAffinityTerm {
        label_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(labels::RELEASED.to_owned(), nonce.to_owned())])),
            ..LabelSelector::default()
        }),
        topology_key: "kubernetes.io/hostname".to_owned(),
        ..PodAffinityTerm::default()
    };
    PodAffinity {
        required_during_scheduling_ignored_during_execution: Some(vec![term]),
        ..PodAffinity::default()
    }
}

fn toleration(toleration: &crate::Toleration) -> Toleration {
    let value = toleration.value.clone();
    Toleration {
        key: toleration.key.clone(),
        operator: Some(if value.is_some() { "Equal" } else { "Exists" }.to_owned()),
        value,
        effect: toleration.effect.clone(),
        toleration_seconds: toleration.seconds.map(i64::from),
    }
}

#[cfg(test)]
mod tests;
