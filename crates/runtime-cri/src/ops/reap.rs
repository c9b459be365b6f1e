//! See [`Runtime::reap`](runtime_core::Runtime::reap).

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream;
use runtime_core::{
    ContainerId, ErrorKind, LABEL_CREATED_AT, LABEL_NONCE, Operation, ReapOptions, ReapReport,
    Result,
};
use runtime_support::is_old;

use crate::generated as cri;
use crate::host::blocking::run_blocking;
use crate::host::container_dirs::is_nonce;
use crate::model::annotations::Annotations;
use crate::model::container::CriContainer;
use crate::model::info::{from_list, has_labels, time};
use crate::ops::remove::remove_now;
use crate::ops::sandbox::remove_sandbox;
use crate::state::CriBackend;
use crate::state::connection::Connection;

/// Number of sandboxes that are removed at the same time.
const REMOVE_CONCURRENCY: usize = 8;

/// Removes old sandboxes and directories of the scope.
pub(crate) async fn reap(backend: &Arc<CriBackend>, options: ReapOptions) -> Result<ReapReport> {
    let connection = &backend.connection;
    // Sandboxes first, so that a container that is created between the two lists is found.
    let filter = cri::PodSandboxFilter {
        label_selector: [connection.scope_label()].into(),
        ..Default::default()
    };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    let sandboxes = connection.call(Operation::Reap, request).await?.items;
    let containers = connection.list_raw(Operation::Reap, String::new()).await?;
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
    let mut removals = Vec::new();
    let mut known = Vec::new();
    for sandbox in &sandboxes {
        known.extend(sandbox.labels.get(LABEL_NONCE).cloned());
        let container = inside.get(sandbox.id.as_str());
        let wanted = match container {
            Some(container) => has_labels(&from_list(container), &options.labels),
            // A sandbox without a container has no labels of a spec.
            None => options.labels.is_empty(),
        };
        if wanted && old(sandbox) {
            let container = container.map(|container| ContainerId::new(&container.id));
            let annotations = Annotations::read(&sandbox.annotations).unwrap_or_default();
            removals.push(remove(Arc::clone(backend), sandbox.id.clone(), container, annotations));
        }
    }
    let mut done = stream::iter(removals).buffer_unordered(REMOVE_CONCURRENCY);
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
        report.others.extend(orphans(connection, known, now, options.older_than).await?);
    }
    backend.poller.poll_now();
    Ok(report)
}

async fn remove(
    backend: Arc<CriBackend>,
    sandbox: String,
    container: Option<ContainerId>,
    annotations: Annotations,
) -> (String, Option<ContainerId>, Result<()>) {
    let connection = &backend.connection;
    let removed = match &container {
        Some(id) => {
            let container = CriContainer {
                id: id.clone(),
                name: "".into(),
                sandbox: sandbox.as_str().into(),
                annotations: Arc::new(annotations),
            };
            match remove_now(&backend, &container).await {
                // Another caller has removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                done => done,
            }
        }
        None => match remove_sandbox(connection, Operation::Reap, &sandbox).await {
            Ok(()) => connection.container_dirs().clear(&annotations).await,
            failed => failed,
        },
    };
    (sandbox, container, removed)
}

/// Removes directories on this host that belong to no sandbox, from a create that was killed before
/// its sandbox, or from a removal that was killed after it.
async fn orphans(
    connection: &Connection,
    known: Vec<String>,
    now: SystemTime,
    age: Duration,
) -> Result<Vec<String>> {
    let (logs, state) = (connection.log_scope(), connection.state_scope());
    // A create makes its directories shortly before its sandbox, and does not notice their removal.
    // A directory that stays until the next reap is better than a container without log or
    // /dev/shm.
    let age = age.max(connection.context.deadlines.create);
    let peer = connection.client.peer().clone();
    let found = run_blocking(move || {
        let is_orphan = |(name, time): &(String, SystemTime)| {
            is_nonce(OsStr::new(name))
                && !known.contains(name)
                && now.duration_since(*time).is_ok_and(|elapsed| elapsed >= age)
        };
        let mut found = BTreeMap::<String, Annotations>::new();
        for (name, _) in entries(&logs).into_iter().filter(is_orphan) {
            let path = logs.join(&name);
            found.entry(name).or_default().logs = Some(path);
        }
        // If the mount namespace is not visible, this library has no mounts in it.
        let mounts = peer.among_its_mounts(|| Ok(entries(&state))).unwrap_or_default();
        for (name, _) in mounts.into_iter().filter(is_orphan) {
            let of_nonce = state.join(&name);
            let annotations = found.entry(name).or_default();
            annotations.shared_memory = Some(of_nonce.join("shm"));
            annotations.hosts = Some(of_nonce.join("hosts"));
        }
        Ok(found)
    })
    .await?;
    let mut removed = Vec::new();
    for (name, annotations) in found {
        match connection.container_dirs().clear(&annotations).await {
            Ok(()) => removed.push(format!("directories of {name}")),
            Err(error) => {
                tracing::warn!(%error, name, "failed to remove the directories of a create");
            }
        }
    }
    Ok(removed)
}

/// Lists the names in a directory, and the times of their last changes.
fn entries(directory: &Path) -> Vec<(String, SystemTime)> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let time = entry.metadata().and_then(|entry| entry.modified()).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), time))
        })
        .collect()
}
