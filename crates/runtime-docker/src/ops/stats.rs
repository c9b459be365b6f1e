//! Stats of one container, once or as a stream, and of many containers.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use runtime_core::{
    Capability, ContainerId, ContainerStats, ContainerStatus, Error, ErrorKind, LabelFilter,
    Operation, Result, ResultExt, StatsOptions, StatsStream,
};
use tokio::time::{MissedTickBehavior, interval};

use super::list::summaries;
use crate::client::deadline::within;
use crate::client::http::ApiRequest;
use crate::error::{BACKEND, invalid_response};
use crate::model::stats::StatsResponse;
use crate::state::{DockerBackend, DockerContainer};

/// How many containers are measured concurrently. Docker samples all requested containers once a
/// second and responds then: one after another, each would take a second.
const CONCURRENT_REQUESTS: usize = 256;

/// How often a container that is reported as not running is inspected and measured again.
const ATTEMPTS: usize = 3;

/// Measures a container once.
pub(crate) async fn once(
    backend: &DockerBackend,
    container: &DockerContainer,
) -> Result<ContainerStats> {
    require_any_stats(backend)?;
    // The container may start between the two requests.
    for _ in 0..ATTEMPTS {
        if let Some(stats) = measure(backend, &container.id).await? {
            return Ok(stats);
        }
        if container.state.exit().is_some() {
            break;
        }
        match backend.inspect(Operation::Stats, &container.id).await?.status() {
            ContainerStatus::Created => return Err(Error::new(ErrorKind::NotStarted)),
            ContainerStatus::Exited => break,
            ContainerStatus::Running => {}
        }
    }
    Err(Error::new(ErrorKind::InvalidState).with_message("the container is not running"))
}

/// Measures a container until it ends. Each sample is a request of its own, because the engine's
/// stream has a fixed interval of a second.
pub(crate) async fn stream(
    backend: &Arc<DockerBackend>,
    container: &DockerContainer,
    options: StatsOptions,
) -> Result<StatsStream> {
    let mut ticks = interval(runtime_core::bounded(options.interval));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let first = once(backend, container).await?;
    let state = (Arc::clone(backend), container.id.clone(), ticks);
    let later = stream::unfold(Some(state), async |state| {
        let (backend, id, mut ticks) = state?;
        let tick = async { Ok(ticks.tick().await) };
        if let Err(error) = backend.context.unless_closed(tick).await {
            let error = error.during(Operation::Stats).on(BACKEND).about(&id);
            return Some((Err(error), None));
        }
        match measure(&backend, &id).await {
            Ok(Some(stats)) => Some((Ok(stats), Some((backend, id, ticks)))),
            Ok(None) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(stream::iter([Ok(first)]).chain(later).boxed())
}

/// Measures those of `containers` that are running and in the scope.
pub(crate) async fn of_many(
    backend: &DockerBackend,
    containers: &[ContainerId],
) -> Result<Vec<(ContainerId, ContainerStats)>> {
    let mut containers = containers.to_vec();
    // A container with a handle is known to be in the scope.
    if containers.iter().any(|id| backend.containers.get(id).is_none()) {
        let listed = summaries(backend, Operation::Stats, &LabelFilter::new()).await?;
        let ours: BTreeSet<&str> = listed.iter().map(|summary| summary.id.as_str()).collect();
        containers.retain(|id| ours.contains(id.as_str()));
    }
    stream::iter(containers)
        .map(|id| async move {
            match measure(backend, &id).await {
                Ok(stats) => Ok(stats.map(|stats| (id, stats))),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffered(CONCURRENT_REQUESTS)
        .try_filter_map(async |sample| Ok(sample))
        .try_collect()
        .await
}

/// Returns `Unsupported` if the engine measures nothing: its response has zeros then.
fn require_any_stats(backend: &DockerBackend) -> Result<()> {
    let can = backend.capabilities();
    if can.stats_cpu || can.stats_memory || can.stats_network || can.stats_block_io {
        return Ok(());
    }
    Err(Error::unsupported(Capability::StatsCpu))
}

/// Measures a container. Returns `None` if it is not running.
async fn measure(backend: &DockerBackend, id: &ContainerId) -> Result<Option<ContainerStats>> {
    let measured = measure_cpu_too(backend, id).await;
    if measured.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        backend.samples.forget(id);
    }
    measured.during(Operation::Stats).on(BACKEND).about(id)
}

/// Measures a container, with its CPU percentage since the previous sample.
async fn measure_cpu_too(
    backend: &DockerBackend,
    id: &ContainerId,
) -> Result<Option<ContainerStats>> {
    let Some(response) = request(backend, id).await? else { return Ok(None) };
    let Some(mut stats) = response.stats(has_swapped_network(backend)) else { return Ok(None) };
    if let Some(now) = stats.cpu_time {
        let before = backend.samples.replace(id, stats.time, now);
        if let Some(share) = before.and_then(|before| before.share_until(stats.time, now)) {
            let limit = cpu_limit(backend, id).await?;
            let host = response.online_cpus().unwrap_or(f64::from(backend.engine.info.cpus));
            let cpus = limit.unwrap_or(host).min(host);
            stats.cpu_percent = (cpus > 0.0).then(|| share / cpus * 100.0);
        }
    }
    Ok(Some(stats))
}

/// Requests a sample. Returns `None` if the engine reports that the container is not running.
async fn request(backend: &DockerBackend, id: &ContainerId) -> Result<Option<StatsResponse>> {
    // Without `one-shot`, Docker takes a second sample one or two seconds later.
    let request = ApiRequest::get(Operation::Stats, format!("/containers/{id}/stats"))
        .query("stream", false)
        .query("one-shot", true);
    let sent = within(Operation::Stats, backend.deadlines().query, async {
        let response = backend.http.call(request).await?;
        backend.http.whole(Operation::Stats, response).await
    });
    match sent.await {
        // Podman's response for a container that is not running.
        Ok(body) if body.is_empty() => Ok(None),
        Ok(body) => serde_json::from_slice(&body).map(Some).map_err(invalid_response),
        // Some engines fail with messages of their own if the container ends during the sample.
        Err(error) if error.kind() == ErrorKind::Internal => {
            let inspect = backend.inspect(Operation::Stats, id).await?;
            if inspect.status() == ContainerStatus::Running { Err(error) } else { Ok(None) }
        }
        Err(error) => Err(error),
    }
}

/// Returns the CPU limit of a container, `None` if it has none. The engine is inspected once for each
/// container that this process did not create.
async fn cpu_limit(backend: &DockerBackend, id: &ContainerId) -> Result<Option<f64>> {
    let known = backend.containers.get(id).and_then(|state| state.cpus.get().copied());
    if let Some(limit) = known.or_else(|| backend.samples.cpus(id)) {
        return Ok(limit);
    }
    let limit = backend.inspect(Operation::Stats, id).await?.host_config.cpus();
    backend.samples.set_cpus(id, limit);
    Ok(limit)
}

/// Returns `true` if received and sent bytes are swapped: Podman before 4.4 reports those of the
/// host's end of the container's link (containers/podman#16618).
fn has_swapped_network(backend: &DockerBackend) -> bool {
    backend.engine.is_podman() && backend.engine.release() < [4, 4, 0]
}
