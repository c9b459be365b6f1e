//! Determines the kinds of the sources of mounts.
//!
//! A host path volume has the kind of its source, and the node refuses a source of another kind.
//! Without a kind the node creates a directory in place of a missing source. So if a mount in a
//! spec has no kind, a probe determines it before the container's pod is created: a pod that has
//! each source as volumes of several kinds, of which the node reports the refused ones. No process
//! of the probe runs, because no source has two kinds. The probe is removed before the container's
//! pod is created, so that a quota for one pod is enough.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod as ApiPod, Volume, VolumeMount};
use runtime_core::{Error, ErrorKind, LABEL_MANAGED, MountKind, Nonce, Operation, Result};
use runtime_support::backend::closed;
use runtime_support::is_unclear;
use tokio::time::Instant;

use super::undo::{undo, undo_by_name};
use crate::error::was_not_sent;
use crate::model::api::{Pod, refuses_source, reports_missing_source};
use crate::model::labels::{self, PROBE};
use crate::model::spec::{Plan, volume_type};
use crate::state::KubernetesBackend;

/// Interval of the requests for the events of the probe.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Time without a further refusal after which the remaining kind is assumed to be correct. The node
/// refuses a wrong kind when the container starts.
const SETTLED_AFTER: Duration = Duration::from_millis(1200);

/// Maximum number of messages with one reason that a kubelet records separately for one pod. Later
/// messages replace each other.
const REFUSALS_MAX: usize = 9;

/// Deadline after which the node ends a probe that was not removed.
const PROBE_DEADLINE: Duration = Duration::from_secs(600);

/// Report of a node about a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// The source is of this kind.
    Is(MountKind),
    /// The source does not exist.
    Missing,
    /// The source is of none of the kinds that were tried.
    None,
}

/// A source without a kind: its index in the spec, and the kinds that are tried.
#[derive(Debug, Clone)]
struct Source {
    at: usize,
    path: String,
    tried: Vec<MountKind>,
}

/// Sets the kinds of the sources that have none in the spec. Returns whether a probe was created.
///
/// # Errors
/// `InvalidArgument` with the mount if a source does not exist.
pub(crate) async fn settle(backend: &Arc<KubernetesBackend>, plan: &mut Plan) -> Result<bool> {
    let sources = sources(plan);
    if sources.is_empty() {
        return Ok(false);
    }
    let nonce = Nonce::random()?;
    let object = probe(&plan.pod, &sources, &nonce);
    let deadline = backend.context.deadlines.create;
    let created = backend.client.create_pod(&object);
    let pod = match runtime_support::within(Operation::Create, deadline, created).await {
        Ok((pod, _)) => pod,
        Err(error) => {
            if is_unclear(&error) && !was_not_sent(&error) {
                let undone =
                    undo_by_name(Arc::clone(backend), probe_name(&nonce), nonce.to_string());
                backend.context.half_made.spawn(undone);
            }
            return Err(error);
        }
    };
    let found = backend.context.half_made.unless_closing(find(backend, &pod, &sources)).await;
    undo(Arc::clone(backend), pod).await;
    let found = found.unwrap_or_else(|| Err(closed()))?;
    for (source, finding) in sources.iter().zip(found) {
        let kind = kind_of(source, finding)?;
        set_type(&mut plan.pod, source.at, volume_type(kind));
    }
    Ok(true)
}

fn kind_of(source: &Source, finding: Finding) -> Result<MountKind> {
    let field = || format!("mounts[{}].source", source.at);
    let path = &source.path;
    match finding {
        Finding::Is(kind) => Ok(kind),
        Finding::Missing => {
            Err(Error::invalid(field(), format!("{path} does not exist on the node")))
        }
        Finding::None => {
            let tried: Vec<&str> = source.tried.iter().map(|kind| kind.as_str()).collect();
            Err(Error::invalid(
                field(),
                format!(
                    "{path} does not exist on the node, or is of another kind than {}: set the kind of the mount",
                    tried.join(", ")
                ),
            ))
        }
    }
}

/// Returns the sources whose kind the node has to report.
fn sources(plan: &Plan) -> Vec<Source> {
    let volumes = plan.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let path = |at: usize| {
        let name = labels::volume(at);
        let volume = volumes?.iter().find(|volume| volume.name == name)?;
        volume.host_path.as_ref().map(|host| host.path.clone())
    };
    let unknown: Vec<(usize, String)> =
        plan.unknown_mounts.iter().filter_map(|&at| Some((at, path(at)?))).collect();
    // For each source all kinds but one are refused.
    let count = unknown.len().max(1);
    let kinds = ((REFUSALS_MAX + count) / count).clamp(2, 5);
    let source = |(at, path): (usize, String)| {
        let tried = likely_kinds(&path).into_iter().take(kinds).collect();
        Source { at, path, tried }
    };
    unknown.into_iter().map(source).collect()
}

/// Returns the kinds that a path can have, the most likely first.
fn likely_kinds(path: &str) -> [MountKind; 5] {
    use MountKind::{BlockDevice, CharDevice, Directory, File, Socket};
    if path.starts_with("/dev/") {
        [CharDevice, BlockDevice, Socket, Directory, File]
    } else if path.ends_with(".sock") || path.ends_with(".socket") {
        [Socket, Directory, File, CharDevice, BlockDevice]
    } else {
        [Directory, File, Socket, CharDevice, BlockDevice]
    }
}

/// Polls the events of the probe until the kinds of all sources are known.
async fn find(backend: &KubernetesBackend, pod: &Pod, sources: &[Source]) -> Result<Vec<Finding>> {
    let client = &backend.client;
    let begun = Instant::now();
    let mut placed_at = None;
    let mut refusals = (0, begun);
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let events = client.events_of(&pod.metadata).await.map_err(unreadable)?;
        let messages: Vec<&str> = events
            .iter()
            .filter(|event| event.reason.as_deref() == Some("FailedMount"))
            .filter_map(|event| event.message.as_deref())
            .collect();
        let refused = messages.iter().filter(|message| refuses_source(message)).count();
        if refused != refusals.0 {
            refusals = (refused, Instant::now());
        }
        let is_settled = refused > 0 && refusals.1.elapsed() >= SETTLED_AFTER;
        let findings: Option<Vec<Finding>> =
            sources.iter().map(|source| finding(source, &messages, is_settled)).collect();
        if let Some(findings) = findings {
            return Ok(findings);
        }
        if refused > 0 {
            placed_at = placed_at.or(Some(begun));
        }
        if placed_at.is_none() {
            let now = client.pod(&pod.metadata.name).await?;
            if now.spec.node_name.is_some() {
                placed_at = Some(Instant::now());
            } else if begun.elapsed() >= backend.options.schedule_budget {
                let message = now.condition("PodScheduled").and_then(|c| c.message.clone());
                let message = format!("no node accepts it: {}", message.unwrap_or_default());
                return Err(Error::new(ErrorKind::ResourceExhausted).with_message(message));
            }
        }
        if placed_at.is_some_and(|at: Instant| at.elapsed() >= backend.options.start_budget) {
            return Err(Error::new(ErrorKind::Unavailable)
                .with_message("the node does not report the kinds of the mounts: set them"));
        }
    }
}

fn unreadable(error: Error) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            let message = error.message().unwrap_or_default();
            let message = format!("failed to determine the kind of a mount, set it: {message}");
            error.with_message(message)
        }
        _ => error,
    }
}

/// Returns the finding for a source, if the messages of the node determine it.
fn finding(source: &Source, messages: &[&str], is_settled: bool) -> Option<Finding> {
    let mut left = Vec::new();
    for &kind in &source.tried {
        let volume = format!("\"{}\"", probe_volume(source.at, kind));
        let refusal = messages.iter().find(|m| m.contains(&volume) && refuses_source(m));
        let Some(refusal) = refusal else {
            left.push(kind);
            continue;
        };
        if reports_missing_source(refusal) {
            return Some(Finding::Missing);
        }
        if refusal.contains("unable to determine its type") {
            return Some(Finding::Is(MountKind::Fifo));
        }
        let names = [
            ("Directory", MountKind::Directory),
            ("File", MountKind::File),
            ("Socket", MountKind::Socket),
            ("CharDevice", MountKind::CharDevice),
            ("BlockDevice", MountKind::BlockDevice),
        ];
        let named = refusal.rsplit_once(", it's a ").map(|(_, name)| name.trim());
        if let Some((_, kind)) = names.iter().find(|(name, _)| named == Some(name)) {
            return Some(Finding::Is(*kind));
        }
    }
    match left[..] {
        [] => Some(Finding::None),
        [kind] if is_settled => Some(Finding::Is(kind)),
        _ => None,
    }
}

fn probe_name(nonce: &Nonce) -> String {
    format!("probe-{nonce}")
}

fn probe_volume(at: usize, kind: MountKind) -> String {
    format!("{}-{}", labels::volume(at), kind.as_str().replace(' ', "-"))
}

/// Returns the container's pod with other volumes, and with a command that no image has. Everything
/// else that admission and the scheduler check is the same.
fn probe(pod: &ApiPod, sources: &[Source], nonce: &Nonce) -> ApiPod {
    let mut probe = pod.clone();
    let meta = &mut probe.metadata;
    meta.name = Some(probe_name(nonce));
    let labels = meta.labels.get_or_insert_default();
    labels.retain(|key, _| key.starts_with(runtime_core::LABEL_PREFIX));
    labels.insert(LABEL_MANAGED.to_owned(), PROBE.to_owned());
    labels.insert(runtime_core::LABEL_NONCE.to_owned(), nonce.to_string());
    if let Some(annotations) = &mut meta.annotations {
        annotations.retain(|key, _| !key.starts_with(runtime_core::LABEL_PREFIX));
    }
    let Some(spec) = &mut probe.spec else { return probe };
    spec.scheduling_gates = None;
    // The affinity to the label of the start gates only the container's pod.
    if let Some(affinity) = &mut spec.affinity {
        affinity.pod_affinity = None;
    }
    spec.image_pull_secrets = None;
    spec.termination_grace_period_seconds = Some(0);
    spec.active_deadline_seconds = i64::try_from(PROBE_DEADLINE.as_secs()).ok();
    let tried: BTreeMap<String, (&str, MountKind)> = sources
        .iter()
        .flat_map(|source| {
            let volume = |&kind| (probe_volume(source.at, kind), (source.path.as_str(), kind));
            source.tried.iter().map(volume)
        })
        .collect();
    spec.volumes = Some(
        tried
            .iter()
            .map(|(name, (path, kind))| Volume {
                name: name.clone(),
                host_path: Some(HostPathVolumeSource {
                    path: (*path).to_owned(),
                    type_: volume_type(*kind),
                }),
                ..Volume::default()
            })
            .collect(),
    );
    if let Some(container) = spec.containers.first_mut() {
        container.command = Some(vec!["/container-runtime-probe".to_owned()]);
        container.args = None;
        container.ports = None;
        container.lifecycle = None;
        container.volume_mounts = Some(
            tried
                .keys()
                .map(|name| VolumeMount {
                    name: name.clone(),
                    mount_path: format!("/container-runtime/{name}"),
                    read_only: Some(true),
                    ..VolumeMount::default()
                })
                .collect(),
        );
    }
    probe
}

fn set_type(pod: &mut ApiPod, at: usize, kind: Option<String>) {
    let name = labels::volume(at);
    let volumes = pod.spec.as_mut().and_then(|spec| spec.volumes.as_mut());
    let volume = volumes.into_iter().flatten().find(|volume| volume.name == name);
    if let Some(host) = volume.and_then(|volume| volume.host_path.as_mut()) {
        host.type_ = kind;
    }
}

#[cfg(test)]
mod tests;
