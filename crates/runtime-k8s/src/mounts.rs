//! Whether the sources of mounts are on a node.
//!
//! A volume of a host path can be told to be there as a folder or as a file, and not as either of
//! them; told nothing, it is made. So the node is asked first, with pods that have the sources as
//! volumes and a placeholder for an image: they run nothing, and what they come to tells.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    Error, ErrorKind, LABEL_CREATED_AT, LABEL_MANAGED, LABEL_NONCE, LABEL_SCOPE, Nonce, Result,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::hold::millis_now;
use crate::names::{CHECK_MOUNTS, CONTAINER, PROBE, PROBE_IMAGE};
use crate::shared::Shared;
use crate::wire::{ClusterEvent, Pod};

/// How often a probe is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The volumes of a pod are tried together, so what fails in all of them is known this long after
/// the first failure.
const TOGETHER: Duration = Duration::from_secs(1);

/// Whether a start has to find out whether the sources of a pod's mounts are there.
pub(crate) fn are_unchecked(pod: &Pod) -> bool {
    pod.annotation(CHECK_MOUNTS).is_some()
}

/// The first mount of a pod whose source is not on its node: its place in the spec, and the path.
///
/// The work is a task of its own, which removes what it made whether somebody waits or not.
pub(crate) async fn missing(
    shared: &Arc<Shared>,
    pod: &Arc<Pod>,
) -> Result<Option<(usize, String)>> {
    let (sender, receiver) = oneshot::channel();
    let (shared, pod) = (Arc::clone(shared), Arc::clone(pod));
    tokio::spawn(async move {
        let _ = sender.send(find(&shared, &pod).await);
    });
    receiver.await.unwrap_or_else(|_| Err(Error::internal("the task that asks a node has ended")))
}

/// A host path of a pod: its place among the mounts, and the path.
type Source = (usize, String);

async fn find(shared: &Shared, pod: &Pod) -> Result<Option<Source>> {
    let sources: Vec<Source> = pod
        .spec
        .volumes
        .iter()
        .filter_map(|volume| volume.host_path.as_ref())
        .enumerate()
        .map(|(at, host)| (at, host.path.clone()))
        .collect();
    // Most sources are folders, so that is asked first, of all of them with one pod.
    let no_folders = fails(shared, pod, &sources, "Directory").await?;
    if no_folders.is_empty() {
        return Ok(None);
    }
    let neither = fails(shared, pod, &no_folders, "File").await?;
    Ok(neither.into_iter().next())
}

/// Those of the sources that are not of this kind on the pod's node.
async fn fails(shared: &Shared, pod: &Pod, sources: &[Source], kind: &str) -> Result<Vec<Source>> {
    let nonce = Nonce::random()?;
    let probe = shared.client.create_pod(&probe(pod, sources, kind, &nonce), false).await?;
    let failed = watch(shared, &probe, sources).await;
    let removed = remove_probe(shared, &probe).await;
    let failed = failed?;
    removed?;
    Ok(failed)
}

/// Looks at a probe until its node has mounted everything, or has said what it cannot mount.
async fn watch(shared: &Shared, probe: &Pod, sources: &[Source]) -> Result<Vec<Source>> {
    let begun = Instant::now();
    let mut failed_since: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = shared.client.pod(&probe.metadata.name).await?;
        let waiting = now.container_status().and_then(|status| status.state.waiting.as_ref());
        // The node turns to the image when all volumes are there.
        if waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("InvalidImageName")) {
            return Ok(Vec::new());
        }
        let events = shared.client.events_of(&probe.metadata.uid).await?;
        let failed: Vec<Source> =
            sources.iter().filter(|(at, _)| is_refused(&events, *at)).cloned().collect();
        if !failed.is_empty() {
            let since = *failed_since.get_or_insert_with(Instant::now);
            if failed.len() == sources.len() || since.elapsed() >= TOGETHER {
                return Ok(failed);
            }
        }
        if begun.elapsed() >= shared.options.start_budget {
            let words = now.status.message.unwrap_or_else(|| {
                "the node does not say whether the sources of the mounts are there".to_owned()
            });
            return Err(Error::new(ErrorKind::Unavailable).with_message(words));
        }
    }
}

/// Whether the node has refused the volume of a mount for what it is.
fn is_refused(events: &[ClusterEvent], at: usize) -> bool {
    let volume = format!("volume \"{}\"", volume_name(at));
    events.iter().any(|event| {
        event.reason.as_deref() == Some("FailedMount")
            && event.message.as_deref().is_some_and(|words| {
                words.contains(&volume) && words.contains("hostPath type check failed")
            })
    })
}

fn volume_name(at: usize) -> String {
    format!("mount-{at}")
}

fn probe(pod: &Pod, sources: &[Source], kind: &str, nonce: &Nonce) -> Value {
    let volumes: Vec<Value> = sources
        .iter()
        .map(|(at, path)| json!({"name": volume_name(*at), "hostPath": {"path": path, "type": kind}}))
        .collect();
    let inside: Vec<Value> = sources
        .iter()
        .map(|(at, _)| json!({"name": volume_name(*at), "mountPath": format!("/mount-{at}"), "readOnly": true}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("probe-{nonce}"),
            "labels": {
                LABEL_MANAGED: PROBE,
                LABEL_SCOPE: pod.metadata.labels.get(LABEL_SCOPE),
                LABEL_NONCE: nonce.as_str(),
                LABEL_CREATED_AT: millis_now(),
            },
            // If this process dies now, the probe goes with the container.
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Pod",
                "name": pod.metadata.name, "uid": pod.metadata.uid,
            }],
        },
        "spec": {
            "nodeName": pod.spec.node_name,
            "tolerations": [{"operator": "Exists"}],
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": CONTAINER, "image": PROBE_IMAGE, "imagePullPolicy": "Never",
                "volumeMounts": inside,
            }],
            "volumes": volumes,
        },
    })
}

/// Removes a probe. Nothing of it runs, so there is nothing to wait for.
pub(crate) async fn remove_probe(shared: &Shared, probe: &Pod) -> Result<()> {
    match shared.client.delete_pod(&probe.metadata.name, &probe.metadata.uid, 0).await {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_has_the_sources_on_the_same_node_and_runs_nothing() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "labels": {"container-runtime/scope": "s"}},
            "spec": {"nodeName": "n"},
        }))
        .unwrap();
        let nonce = Nonce::random().unwrap();
        let sources = [(0, "/a".to_owned()), (2, "/b".to_owned())];
        let probe = probe(&pod, &sources, "File", &nonce);
        assert_eq!(probe["spec"]["nodeName"], "n");
        assert_eq!(probe["spec"]["containers"][0]["image"], "!probe");
        assert_eq!(
            probe["spec"]["volumes"][1],
            json!({"name": "mount-2", "hostPath": {"path": "/b", "type": "File"}})
        );
        assert_eq!(probe["metadata"]["labels"]["container-runtime/managed"], "probe");
        assert_eq!(probe["metadata"]["labels"]["container-runtime/scope"], "s");
        assert_eq!(probe["metadata"]["ownerReferences"][0]["uid"], "u");
    }

    #[test]
    fn the_node_names_the_volume_that_it_refuses() {
        let event = ClusterEvent {
            reason: Some("FailedMount".into()),
            message: Some(
                "MountVolume.SetUp failed for volume \"mount-1\" : hostPath type check failed: /x is not a directory".into(),
            ),
        };
        assert!(is_refused(std::slice::from_ref(&event), 1));
        assert!(!is_refused(std::slice::from_ref(&event), 0));
        assert!(!is_refused(std::slice::from_ref(&event), 11));
    }
}
