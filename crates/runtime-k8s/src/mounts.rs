//! Whether the sources of mounts are on a node.
//!
//! A volume of a host path can be told to be there as a folder or as a file, and not as either of
//! them; told nothing, it is made. So the node is asked first, with pods that have the sources as
//! volumes and a placeholder for an image: they run nothing, and what they come to tells.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    Error, ErrorKind, LABEL_CREATED_AT, LABEL_MANAGED, LABEL_NONCE, LABEL_SCOPE, Nonce, Operation,
    Result,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::hold::millis_now;
use crate::names::{CHECK_MOUNTS, CONTAINER, PROBE, PROBE_IMAGE};
use crate::shared::{Shared, is_closed};
use crate::wire::{ClusterEvent, Pod};

/// How often the probes are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What is there is known as soon as the node has mounted it; what is not there, when an event has
/// come, which on a busy node can be late. So a source is taken for no folder after this time, and
/// asked for as a file.
const MOST_ARE_FOLDERS: Duration = Duration::from_secs(2);

/// How long the removal of a probe may take. One that stays goes with its container.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

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
    let task = Arc::clone(&shared);
    shared.half_made.spawn(async move {
        let _ = sender.send(find(&task, &pod).await);
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
    let mut probes = Probes { shared, pod, asked: Vec::new() };
    let found = shared.half_made.unless_closing(probes.find(sources)).await;
    let found = found.unwrap_or_else(|| Err(is_closed()));
    let removed = probes.remove().await;
    let found = found?;
    removed?;
    Ok(found)
}

/// What a source can be, as the node's check of a volume has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
}

/// A probe, and what it asks for.
struct Probe {
    pod: Pod,
    kind: Kind,
    sources: Vec<Source>,
    /// The places of those that the node has refused.
    refused: BTreeSet<usize>,
    /// Whether the node has mounted all.
    mounted: bool,
}

impl Probe {
    /// Whether a source is of the kind, as far as that is known.
    fn says(&self, at: usize, kind: Kind) -> Option<bool> {
        let asks = self.kind == kind && self.sources.iter().any(|source| source.0 == at);
        match asks {
            true if self.mounted => Some(true),
            true if self.refused.contains(&at) => Some(false),
            _ => None,
        }
    }

    /// Looks at what the node makes of it.
    async fn look(&mut self, shared: &Shared) -> Result<Option<String>> {
        if self.mounted || self.refused.len() == self.sources.len() {
            return Ok(None);
        }
        let now = shared.client.pod(&self.pod.metadata.name).await?;
        let waiting = now.container_status().and_then(|status| status.state.waiting.as_ref());
        // The node turns to the image when all volumes are there.
        if waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("InvalidImageName")) {
            self.mounted = true;
            return Ok(None);
        }
        let events = shared.client.events_of(&self.pod.metadata.uid).await?;
        let refused =
            self.sources.iter().map(|source| source.0).filter(|at| is_refused(&events, *at));
        self.refused.extend(refused);
        Ok(now.status.message)
    }
}

struct Probes<'a> {
    shared: &'a Shared,
    pod: &'a Pod,
    asked: Vec<Probe>,
}

impl Probes<'_> {
    /// The first of the sources that is neither a folder nor a file.
    async fn find(&mut self, sources: Vec<Source>) -> Result<Option<Source>> {
        let begun = Instant::now();
        // Most sources are folders, so that is asked first, of all of them with one pod.
        self.ask(Kind::Directory, sources.clone()).await?;
        let mut each = false;
        loop {
            tokio::time::sleep(LOOK).await;
            let mut words = None;
            for probe in &mut self.asked {
                words = probe.look(self.shared).await?.or(words);
            }
            if let Some(missing) = self.missing(&sources) {
                return Ok(missing);
            }
            if !each && (begun.elapsed() >= MOST_ARE_FOLDERS || self.refused_any()) {
                each = true;
                // One that fails keeps its probe from saying anything of the others.
                for source in &sources {
                    let alone = vec![source.clone()];
                    self.ask(Kind::File, alone.clone()).await?;
                    if sources.len() > 1 && self.says(source.0, Kind::Directory).is_none() {
                        self.ask(Kind::Directory, alone).await?;
                    }
                }
            }
            if begun.elapsed() >= self.shared.options.start_budget {
                let words = words.unwrap_or_else(|| {
                    "the node does not say whether the sources of the mounts are there".to_owned()
                });
                return Err(Error::new(ErrorKind::Unavailable).with_message(words));
            }
        }
    }

    async fn ask(&mut self, kind: Kind, sources: Vec<Source>) -> Result<()> {
        let nonce = Nonce::random()?;
        let object = probe(self.pod, &sources, kind, &nonce);
        let pod = self.shared.client.create_pod(&object, false).await?;
        self.asked.push(Probe { pod, kind, sources, refused: BTreeSet::new(), mounted: false });
        Ok(())
    }

    fn refused_any(&self) -> bool {
        self.asked.iter().any(|probe| !probe.refused.is_empty())
    }

    fn says(&self, at: usize, kind: Kind) -> Option<bool> {
        let mut says = self.asked.iter().filter_map(|probe| probe.says(at, kind));
        // A volume that was refused may have come since.
        says.clone().find(|yes| *yes).or_else(|| says.next())
    }

    /// Whether one is missing, when that is known: `Some(None)` says that none is.
    fn missing(&self, sources: &[Source]) -> Option<Option<Source>> {
        for source in sources {
            match (self.says(source.0, Kind::Directory), self.says(source.0, Kind::File)) {
                (Some(true), _) | (_, Some(true)) => {}
                (Some(false), Some(false)) => return Some(Some(source.clone())),
                _ => return None,
            }
        }
        Some(None)
    }

    /// Removes the probes, all of them, and says what went wrong first.
    async fn remove(&mut self) -> Result<()> {
        let shared = self.shared;
        let removals = self.asked.drain(..).map(|probe| async move {
            let removal = remove_probe(shared, &probe.pod);
            runtime_support::within(Operation::Start, REMOVAL_LIMIT, removal).await
        });
        futures_util::future::join_all(removals).await.into_iter().collect()
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

fn probe(pod: &Pod, sources: &[Source], kind: Kind, nonce: &Nonce) -> Value {
    let kind = match kind {
        Kind::Directory => "Directory",
        Kind::File => "File",
    };
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

    use std::sync::atomic::{AtomicUsize, Ordering};

    use runtime_core::{Capabilities, Scope};

    use crate::capabilities::Server;
    use crate::connect::KubernetesOptions;

    #[test]
    fn a_probe_has_the_sources_on_the_same_node_and_runs_nothing() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "labels": {"container-runtime/scope": "s"}},
            "spec": {"nodeName": "n"},
        }))
        .unwrap();
        let nonce = Nonce::random().unwrap();
        let sources = [(0, "/a".to_owned()), (2, "/b".to_owned())];
        let probe = probe(&pod, &sources, Kind::File, &nonce);
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

    #[tokio::test(start_paused = true)]
    async fn a_close_ends_the_question_and_removes_the_probe() {
        let deleted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&deleted);
        let client = crate::client::tests::of(move |method, uri| match method.as_str() {
            "POST" => (201, r#"{"metadata": {"name": "probe", "uid": "p"}}"#),
            "DELETE" => {
                count.fetch_add(1, Ordering::Relaxed);
                (200, "{}")
            }
            _ if uri.contains("events") => (200, r#"{"items": []}"#),
            _ => (200, r#"{"metadata": {"name": "probe", "uid": "p"}}"#),
        });
        let options = KubernetesOptions::new(Scope::new("t").unwrap());
        let shared =
            Arc::new(Shared::new(client, options, Server::default(), Capabilities::default()));
        let spec = json!({"volumes": [{"name": "mount-0", "hostPath": {"path": "/a"}}]});
        let pod = Arc::new(serde_json::from_value(json!({"spec": spec})).unwrap());
        let asking = missing(&shared, &pod);
        let asked = tokio::time::timeout(Duration::from_secs(1), asking).await;
        assert!(asked.is_err(), "the node has not answered");
        shared.close().await;
        assert_eq!(deleted.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_source_is_missing_when_it_is_neither() {
        let source = |at: usize| (at, format!("/{at}"));
        let probe = |kind, at, refused: bool, mounted| Probe {
            pod: Pod::default(),
            kind,
            sources: vec![source(at)],
            refused: refused.then_some(at).into_iter().collect(),
            mounted,
        };
        let a_folder = probe(Kind::Directory, 0, false, true);
        assert_eq!(a_folder.says(0, Kind::Directory), Some(true));
        assert_eq!(a_folder.says(0, Kind::File), None);
        assert_eq!(a_folder.says(1, Kind::Directory), None);
        let no_file = probe(Kind::File, 1, true, false);
        assert_eq!(no_file.says(1, Kind::File), Some(false));
        assert_eq!(probe(Kind::File, 1, false, false).says(1, Kind::File), None);
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
