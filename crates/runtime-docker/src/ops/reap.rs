//! Removes the leftovers of a scope.

use std::time::SystemTime;

use futures_util::StreamExt;
use runtime_core::{ErrorKind, LABEL_CREATED_AT, Operation, ReapOptions, ReapReport, Result};
use runtime_support::is_old;

use super::list::summaries;
use super::remove::remove_in_time;
use crate::state::DockerBackend;

/// How many containers a reap removes concurrently.
const CONCURRENT_REMOVALS: usize = 8;

/// Removes the containers of the scope that are older than an age.
pub(crate) async fn reap(backend: &DockerBackend, options: ReapOptions) -> Result<ReapReport> {
    let mut listed = summaries(backend, Operation::Reap, &options.labels).await?;
    let now = SystemTime::now();
    listed.retain(|summary| {
        let label = summary.label(LABEL_CREATED_AT);
        is_old(label, summary.created_at(), options.older_than, now)
    });
    let containers: Vec<_> = listed.iter().map(|summary| backend.listed(summary)).collect();
    let mut removals = futures_util::stream::iter(containers)
        .map(|container| async move {
            let removed = remove_in_time(backend, &container).await;
            (container.id, removed)
        })
        .buffer_unordered(CONCURRENT_REMOVALS);
    let mut report = ReapReport::default();
    while let Some((id, removed)) = removals.next().await {
        match removed {
            Ok(()) => report.removed.push(id),
            Err(error) if error.kind() == ErrorKind::NotFound => report.removed.push(id),
            Err(error) => report.failed.push((id, error.to_string())),
        }
    }
    Ok(report)
}
