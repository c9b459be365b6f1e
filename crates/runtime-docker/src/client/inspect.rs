//! Asks the engine for one container: `/containers/{id}/json`.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use runtime_core::{ContainerId, Operation, Result, ResultExt};
use serde_json::json;

use super::deadline::within;
use super::events;
use super::http::{Call, Http, encode};
use crate::error::met_the_end;
use crate::model::inspect::Inspect;
use crate::model::time::{parse_rfc3339, to_query};

/// Asks what the engine knows of a container.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn inspect(
    http: &Arc<Http>,
    deadline: Duration,
    operation: Operation,
    id: &ContainerId,
) -> Result<Inspect> {
    let ask = || {
        http.json::<Inspect>(Call::get(
            operation,
            format!("/containers/{}/json", encode(id.as_str())),
        ))
    };
    let asked = async {
        let mut inspect = match ask().await {
            // The process has been reaped by now, and Podman can tell that from an end.
            Err(error) if met_the_end(&error) => ask().await?,
            answer => answer?,
        };
        inspect.state.code_is_invented =
            inspect.state.may_be_invented() && !saw_the_end(http, operation, &inspect).await?;
        // On cgroup v1 the word of it can get lost between the kernel and the engine's containerd.
        // Here, so that all who ask for the end of a container are told the same.
        if inspect.is_unexplained_kill() && http.kernel_tells_out_of_memory(&inspect.id()).await {
            tracing::debug!(container = %id, "out of memory, by the kernel's log");
            inspect.state.oom_killed = true;
        }
        Ok(inspect)
    };
    within(operation, deadline, asked).await.about(id)
}

/// How much earlier than the end of a container its event is asked for, and how much later at least.
const AROUND_THE_END: Duration = Duration::from_secs(2);

/// From when on and until when to ask for the event of an end. `now` may be a little before it: the
/// engine's clock is known so well only.
fn around(ended: SystemTime, now: SystemTime) -> (SystemTime, SystemTime) {
    let since = ended.checked_sub(AROUND_THE_END).unwrap_or(UNIX_EPOCH);
    (since, now.max(ended + AROUND_THE_END))
}

/// Whether the engine tells of the end of this container as an event.
///
/// Docker gives the code 255 and the time of its own start to a container that ended while it
/// was down, where containerd has not kept the code either (from 1.7 on it does not). It has no
/// event of such an end. It keeps the last 256 events, so that a real 255 is not known for one any
/// more after that many.
async fn saw_the_end(http: &Arc<Http>, operation: Operation, inspect: &Inspect) -> Result<bool> {
    let Some(clock) = http.clock_of_docker() else { return Ok(true) };
    let Some(ended) = parse_rfc3339(inspect.state.finished_at.as_bytes()) else { return Ok(true) };
    let filters = json!({ "type": ["container"], "container": [inspect.id], "event": ["die"] });
    let (since, until) = around(ended, clock.at(SystemTime::now()));
    let call = Call::get(operation, "/events")
        .query("filters", filters)
        .query("since", to_query(since))
        .query("until", to_query(until));
    let answer = http.call(call).await?;
    let mut messages = pin!(events::messages(operation, http.stream(operation, answer)));
    while let Some(message) = messages.next().await {
        if message?.is_end_of(&inspect.id) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_by_a_clock_ahead_of_ours_is_asked_for() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(around(at(100), at(99)), (at(98), at(102)));
        assert_eq!(around(at(100), at(500)), (at(98), at(500)));
    }
}
