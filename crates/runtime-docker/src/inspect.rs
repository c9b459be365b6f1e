//! The answer of `/containers/{id}/json`, as far as it is used.
//!
//! It is read by types of our own: bollard's refuse a whole answer for one state or mode that
//! they do not know.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use runtime_core::{ContainerId, Operation, Result, ResultExt};
use serde::Deserialize;
use serde_json::json;

use crate::error::met_the_end;
use crate::events;
use crate::http::{Call, Http, encode};
use crate::shared::{Shared, within};
use crate::time::{parse_rfc3339, to_query};

impl Shared {
    /// Asks what the engine knows of a container.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn inspect(&self, operation: Operation, id: &ContainerId) -> Result<Inspect> {
        inspect(&self.http, self.deadlines.query, operation, id).await
    }
}

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

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspect {
    pub(crate) id: String,
    /// With a slash before it.
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) created: String,
    /// The id of the image.
    #[serde(default)]
    pub(crate) image: String,
    #[serde(default)]
    pub(crate) state: State,
    #[serde(default)]
    pub(crate) config: Config,
    #[serde(default)]
    pub(crate) host_config: HostConfig,
    #[serde(default)]
    pub(crate) network_settings: NetworkSettings,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct State {
    pub(crate) status: String,
    pub(crate) running: bool,
    pub(crate) paused: bool,
    pub(crate) dead: bool,
    /// The engine's word, or the kernel's where the engine has missed it.
    #[serde(rename = "OOMKilled")]
    pub(crate) oom_killed: bool,
    pub(crate) exit_code: i64,
    pub(crate) error: String,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    /// The code and the time of the end are the engine's own, not the container's.
    #[serde(skip)]
    pub(crate) code_is_invented: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Config {
    /// The image as it was asked for.
    pub(crate) image: String,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) tty: bool,
    pub(crate) open_stdin: bool,
    pub(crate) stop_timeout: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct HostConfig {
    pub(crate) memory: i64,
    pub(crate) nano_cpus: i64,
    pub(crate) cpu_quota: i64,
    pub(crate) cpu_period: i64,
    pub(crate) group_add: Option<Vec<String>>,
    pub(crate) log_config: LogConfig,
    pub(crate) tmpfs: Option<BTreeMap<String, String>>,
    pub(crate) mounts: Option<Vec<Mount>>,
    pub(crate) port_bindings: Option<BTreeMap<String, Option<Vec<PortBinding>>>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Mount {
    #[serde(rename = "Type")]
    kind: String,
    target: String,
}

impl Inspect {
    /// Where it was made with file systems in memory.
    pub(crate) fn tmpfs(&self) -> Vec<String> {
        let config = &self.host_config;
        let mounts = config.mounts.iter().flatten().filter(|mount| mount.kind == "tmpfs");
        let mounts = mounts.map(|mount| mount.target.clone());
        config.tmpfs.iter().flatten().map(|(target, _)| target.clone()).chain(mounts).collect()
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct LogConfig {
    #[serde(rename = "Type")]
    pub(crate) driver: String,
    pub(crate) config: Option<BTreeMap<String, String>>,
}

impl LogConfig {
    /// Whether the engine throws away the oldest part of the log when it has reached a size.
    ///
    /// `json-file` does with `max-size`, and the engine adds its own defaults at the create.
    /// `local` always does. Of drivers whose log cannot be read the engine keeps a cache, which is
    /// a `local` log.
    pub(crate) fn rotates(&self) -> bool {
        match self.driver.as_str() {
            "json-file" => self.config.iter().flatten().any(|(key, _)| key == "max-size"),
            "journald" => false,
            _ => true,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NetworkSettings {
    /// `80/tcp` to where it is on the host.
    pub(crate) ports: Option<BTreeMap<String, Option<Vec<PortBinding>>>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PortBinding {
    pub(crate) host_ip: String,
    pub(crate) host_port: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_with_a_largest_size_rotate() {
        let rotates = |config: serde_json::Value| {
            serde_json::from_value::<LogConfig>(config).unwrap().rotates()
        };
        assert!(!rotates(json!({ "Type": "json-file" })));
        assert!(!rotates(json!({ "Type": "json-file", "Config": null })));
        assert!(!rotates(json!({ "Type": "json-file", "Config": { "labels": "a" } })));
        assert!(rotates(json!({ "Type": "json-file", "Config": { "max-size": "10m" } })));
        assert!(rotates(json!({ "Type": "local", "Config": {} })));
        assert!(rotates(json!({ "Type": "syslog", "Config": {} })));
        assert!(!rotates(json!({ "Type": "journald", "Config": {} })));
    }

    #[test]
    fn an_end_by_a_clock_ahead_of_ours_is_asked_for() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(around(at(100), at(99)), (at(98), at(102)));
        assert_eq!(around(at(100), at(500)), (at(98), at(500)));
    }
}
