//! Removing what a scope left behind.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use runtime_core::{
    Container as _, ErrorKind, LABEL_CREATED_AT, LABEL_NONCE, LabelFilter, Operation, ReapOptions,
    ReapReport, Result,
};

use crate::container::KubernetesContainer;
use crate::create;
use crate::mounts;
use crate::names;
use crate::shared::Shared;
use crate::wire::{Meta, Object};

/// How many pods are removed at once.
const AT_ONCE: usize = 16;

/// Removes the containers of the scope that are old enough, and what belongs to none any more.
pub(crate) async fn run(shared: &Arc<Shared>, options: &ReapOptions) -> Result<ReapReport> {
    let scope = &shared.options.scope;
    let selector = names::selector(scope, &options.labels);
    let (pods, _) = ask(shared, shared.client.list_pods(&selector)).await?;
    let mut report = ReapReport::default();
    let old = pods.into_iter().filter(|pod| is_old(&pod.metadata, options.older_than));
    let mut removals = futures_util::stream::iter(old)
        .map(|pod| async move {
            let container = KubernetesContainer::new(shared, Arc::new(pod));
            (container.remove().await, container)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((removed, container)) = removals.next().await {
        let id = container.id().clone();
        match removed {
            Ok(()) => report.removed.push(id),
            // Somebody else was quicker.
            Err(error) if error.kind() == ErrorKind::NotFound => report.removed.push(id),
            Err(error) => report.failed.push((id, error.to_string())),
        }
    }
    drop(removals);
    if options.labels.is_empty() {
        report.others = remove_leftovers(shared, options.older_than).await?;
        let selector = names::probe_selector(scope);
        let (probes, _) = ask(shared, shared.client.list_pods(&selector)).await?;
        for probe in probes.iter().filter(|pod| is_old(&pod.metadata, options.older_than)) {
            remove(shared, mounts::remove_probe(shared, probe)).await?;
            report.others.push(format!("Pod {}", probe.metadata.name));
        }
    }
    Ok(report)
}

/// Removes Secrets and budgets whose pod is gone. The cluster does that itself in time, where its
/// controllers run.
async fn remove_leftovers(shared: &Shared, older_than: Duration) -> Result<Vec<String>> {
    let selector = names::selector(&shared.options.scope, &LabelFilter::new());
    let (api, kind) = create::budgets(shared);
    let mut left = Vec::new();
    for (api, kind, word) in [
        (create::SECRETS.0, create::SECRETS.1, "Secret"),
        (api.as_str(), kind, "PodDisruptionBudget"),
    ] {
        let listed = ask(shared, shared.client.list_objects(api, kind, &selector)).await;
        for object in may_be_forbidden(kind, listed)? {
            if is_old(&object.metadata, older_than) {
                left.push((api, kind, word, object.metadata));
            }
        }
    }
    if left.is_empty() {
        return Ok(Vec::new());
    }
    // Listed after the others, so that what belongs to a pod that was just made is not taken.
    let (pods, _) = ask(shared, shared.client.list_pods(&selector)).await?;
    let nonces: HashSet<&String> =
        pods.iter().filter_map(|pod| pod.metadata.labels.get(LABEL_NONCE)).collect();
    let mut removed = Vec::new();
    for (api, kind, word, meta) in left {
        if meta.labels.get(LABEL_NONCE).is_some_and(|nonce| nonces.contains(nonce)) {
            continue;
        }
        remove(shared, shared.client.delete(api, kind, &meta.name)).await?;
        removed.push(format!("{word} {}", meta.name));
    }
    Ok(removed)
}

/// The right to budgets is for those who ask for them. Without it none were made.
fn may_be_forbidden(kind: &str, listed: Result<Vec<Object>>) -> Result<Vec<Object>> {
    match listed {
        Err(error) if kind == create::BUDGETS && error.kind() == ErrorKind::PermissionDenied => {
            Ok(Vec::new())
        }
        listed => listed,
    }
}

/// A question of it, with the deadline of one.
async fn ask<T>(shared: &Shared, question: impl Future<Output = Result<T>>) -> Result<T> {
    shared.query(Operation::Reap, question).await
}

/// A removal of it, with the deadline of one.
async fn remove<T>(shared: &Shared, removal: impl Future<Output = Result<T>>) -> Result<T> {
    shared.within(Operation::Reap, shared.options.deadlines.remove, removal).await
}

/// Whether something was made so long ago.
fn is_old(meta: &Meta, age: Duration) -> bool {
    let label = meta.labels.get(LABEL_CREATED_AT).map(String::as_str);
    let engines = meta.creation_timestamp.map(|time| time.0);
    runtime_support::is_old(label, engines, age, SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::Error;

    #[test]
    fn budgets_may_be_forbidden_and_secrets_not() {
        let refused = |kind| Err(Error::new(kind));
        let listed = may_be_forbidden(create::BUDGETS, refused(ErrorKind::PermissionDenied));
        assert!(listed.unwrap().is_empty());
        for (what, kind) in [
            (create::BUDGETS, ErrorKind::Unavailable),
            (create::SECRETS.1, ErrorKind::PermissionDenied),
        ] {
            assert_eq!(may_be_forbidden(what, refused(kind)).unwrap_err().kind(), kind);
        }
    }
}
