//! Removing what a scope left behind.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream;
use runtime_core::{
    ContainerId, ErrorKind, LABEL_CREATED_AT, LABEL_NONCE, Operation, ReapOptions, ReapReport,
    Result,
};
use runtime_support::is_old;

use crate::census;
use crate::container::CriContainer;
use crate::generated as cri;
use crate::host_dirs::is_nonce;
use crate::info::{from_list, has_labels, time};
use crate::notes::Notes;
use crate::sandbox::{clear_host, on_host, remove_sandbox};
use crate::shared::Shared;

/// How many sandboxes are removed at once.
const AT_ONCE: usize = 8;

/// See [`Runtime::reap`](runtime_core::Runtime::reap).
pub(crate) async fn reap(shared: &Arc<Shared>, options: ReapOptions) -> Result<ReapReport> {
    // The sandboxes first: one whose container comes between the two lists is then found with it.
    let filter = cri::PodSandboxFilter {
        label_selector: [shared.scope_label()].into(),
        ..Default::default()
    };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    let sandboxes = shared.ask(Operation::Reap, request).await?.items;
    let containers = census::list_raw(shared, Operation::Reap, String::new()).await?;
    let mut inside: HashMap<&str, &cri::Container> = HashMap::new();
    for container in &containers {
        inside.insert(&container.pod_sandbox_id, container);
    }
    let now = SystemTime::now();
    let old = |sandbox: &cri::PodSandbox| {
        let label = sandbox.labels.get(LABEL_CREATED_AT).map(String::as_str);
        is_old(label, time(sandbox.created_at), options.older_than, now)
    };

    let mut report = ReapReport::default();
    let mut doomed = Vec::new();
    let mut known = Vec::new();
    for sandbox in &sandboxes {
        known.extend(sandbox.labels.get(LABEL_NONCE).cloned());
        let container = inside.get(sandbox.id.as_str());
        let wanted = match container {
            Some(container) => has_labels(&from_list(container), &options.labels),
            // A sandbox without a container has none of the caller's labels.
            None => options.labels.is_empty(),
        };
        if wanted && old(sandbox) {
            let container = container.map(|container| ContainerId::new(&container.id));
            let notes = Notes::read(&sandbox.annotations).unwrap_or_default();
            doomed.push(remove(shared.clone(), sandbox.id.clone(), container, notes));
        }
    }
    let mut done = stream::iter(doomed).buffer_unordered(AT_ONCE);
    while let Some((sandbox, container, removed)) = done.next().await {
        match (removed, container) {
            (Ok(()), Some(id)) => report.removed.push(id),
            (Ok(()), None) => report.others.push(format!("sandbox {sandbox}")),
            (Err(error), id) => {
                let id = id.unwrap_or_else(|| ContainerId::new(&sandbox));
                report.failed.push((id, error.to_string()));
            }
        }
    }
    drop(done);
    if options.labels.is_empty() {
        report.others.extend(orphans(shared, known, now, options.older_than).await?);
    }
    shared.census.hurry();
    Ok(report)
}

async fn remove(
    shared: Arc<Shared>,
    sandbox: String,
    container: Option<ContainerId>,
    notes: Notes,
) -> (String, Option<ContainerId>, Result<()>) {
    let removed = match &container {
        Some(id) => {
            let handle = CriContainer {
                id: id.clone(),
                name: "".into(),
                sandbox: sandbox.as_str().into(),
                notes: Arc::new(notes),
                shared,
            };
            match handle.remove_now().await {
                // Somebody else was quicker.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                done => done,
            }
        }
        None => match remove_sandbox(&shared, Operation::Reap, &sandbox).await {
            Ok(()) => clear_host(&shared, &notes).await,
            failed => failed,
        },
    };
    (sandbox, container, removed)
}

/// Removes what lies on the host and belongs to no sandbox: of a create that broke off before it
/// had one, or of a remove that broke off after it.
async fn orphans(
    shared: &Arc<Shared>,
    known: Vec<String>,
    now: SystemTime,
    age: Duration,
) -> Result<Vec<String>> {
    let of_scope = |root: &PathBuf| root.join(shared.scope.as_str());
    let logs = of_scope(&shared.settings.log_dir);
    let state = of_scope(&shared.settings.state_dir);
    // A create makes its folder a little before its sandbox can be seen, and would go on without it: a
    // container without its logs or its /dev/shm is worse than a folder that stays until the next time.
    let age = age.max(shared.deadlines.create);
    let peer = shared.client.peer().clone();
    let found = on_host(move || {
        let is_orphan = |(name, time): &(String, SystemTime)| {
            is_nonce(OsStr::new(name))
                && !known.contains(name)
                && now.duration_since(*time).is_ok_and(|elapsed| elapsed >= age)
        };
        let mut found = BTreeMap::<String, Notes>::new();
        for (name, _) in inside_of(&logs).into_iter().filter(is_orphan) {
            let place = logs.join(&name);
            found.entry(name).or_default().logs = Some(place);
        }
        // Where the engine's mounts cannot be seen, there are none of ours.
        let mounts = peer.among_its_mounts(|| Ok(inside_of(&state))).unwrap_or_default();
        for (name, _) in mounts.into_iter().filter(is_orphan) {
            let of_nonce = state.join(&name);
            let notes = found.entry(name).or_default();
            notes.shared_memory = Some(of_nonce.join("shm"));
            notes.hosts = Some(of_nonce.join("hosts"));
        }
        Ok(found)
    })
    .await?;
    let mut removed = Vec::new();
    for (name, notes) in found {
        match clear_host(shared, &notes).await {
            Ok(()) => removed.push(format!("folders of {name}")),
            Err(error) => tracing::warn!(%error, name, "a folder could not be removed"),
        }
    }
    Ok(removed)
}

/// What is in a folder, and when it was last changed.
fn inside_of(folder: &Path) -> Vec<(String, SystemTime)> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let time = entry.metadata().and_then(|entry| entry.modified()).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), time))
        })
        .collect()
}
