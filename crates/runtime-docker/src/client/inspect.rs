//! Inspects a container: `/containers/{id}/json`.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use runtime_core::{ContainerId, Operation, Result, ResultExt};
use serde_json::json;

use super::deadline::within;
use super::events;
use super::http::{ApiRequest, Http, encode};
use crate::error::is_process_gone;
use crate::model::inspect::Inspect;
use crate::model::time::{parse_rfc3339, to_query};

/// Inspects a container within `deadline`.
///
/// # Errors
/// `NotFound` if the engine has no such container.
pub(crate) async fn inspect(
    http: &Arc<Http>,
    deadline: Duration,
    operation: Operation,
    id: &ContainerId,
) -> Result<Inspect> {
    let request = || {
        http.json::<Inspect>(ApiRequest::get(
            operation,
            format!("/containers/{}/json", encode(id.as_str())),
        ))
    };
    let work = async {
        let mut inspect = match request().await {
            // The process ended during Podman's inspect, and was reaped since.
            Err(error) if is_process_gone(&error) => request().await?,
            response => response?,
        };
        inspect.state.is_exit_unobserved =
            inspect.state.may_be_unobserved() && !has_exit_event(http, operation, &inspect).await?;
        // On cgroup v1 the kernel's notification can be lost before the engine's containerd reads it.
        // Checked here, so that all operations return the same exit.
        if inspect.is_unexplained_kill() && http.kernel_reports_out_of_memory(&inspect.id()).await {
            tracing::debug!(container = %id, "the kernel's log has a kill by the memory limit");
            inspect.state.oom_killed = true;
        }
        Ok(inspect)
    };
    within(operation, deadline, work).await.about(id)
}

/// The margin before and after the end of a container in the request for its event.
const EXIT_EVENT_MARGIN: Duration = Duration::from_secs(2);

/// Returns the time range of a request for the event of an exit. `now` may be a little before the
/// exit, because the offset of the engine's clock is not exact.
fn event_range(ended: SystemTime, now: SystemTime) -> (SystemTime, SystemTime) {
    let since = ended.checked_sub(EXIT_EVENT_MARGIN).unwrap_or(UNIX_EPOCH);
    (since, now.max(ended + EXIT_EVENT_MARGIN))
}

/// Returns `true` if the engine has an event for the exit of this container.
///
/// Docker sets the code 255 and the time of its own start for a container that ended while Docker
/// was down, if containerd has not kept the code either (since 1.7 it does not). Docker has no
/// event for such an exit. It keeps the last 256 events, so a real 255 is not recognized after that
/// many.
async fn has_exit_event(http: &Arc<Http>, operation: Operation, inspect: &Inspect) -> Result<bool> {
    let Some(clock) = http.docker_clock() else { return Ok(true) };
    let Some(ended) = parse_rfc3339(inspect.state.finished_at.as_bytes()) else { return Ok(true) };
    let filters = json!({ "type": ["container"], "container": [inspect.id], "event": ["die"] });
    let (since, until) = event_range(ended, clock.at(SystemTime::now()));
    let call = ApiRequest::get(operation, "/events")
        .query("filters", filters)
        .query("since", to_query(since))
        .query("until", to_query(until));
    let response = http.call(call).await?;
    let mut messages = pin!(events::messages(operation, http.stream(operation, response)));
    while let Some(message) = messages.next().await {
        if message?.is_exit_of(&inspect.id) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_range_with_clock_ahead_contains_exit() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(event_range(at(100), at(99)), (at(98), at(102)));
        assert_eq!(event_range(at(100), at(500)), (at(98), at(500)));
    }
}
