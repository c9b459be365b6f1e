//! The answer of `/containers/{id}/json`, as far as it is used.
//!
//! It is read by types of our own: bollard's refuse a whole answer for one state or mode that
//! they do not know.

use std::collections::BTreeMap;

use std::time::Duration;

use runtime_core::{ContainerId, Operation, Result, ResultExt};
use serde::Deserialize;

use crate::http::{Call, Http, encode};
use crate::shared::{Shared, within};

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
    http: &Http,
    deadline: Duration,
    operation: Operation,
    id: &ContainerId,
) -> Result<Inspect> {
    let call = Call::get(operation, format!("/containers/{}/json", encode(id.as_str())));
    within(operation, deadline, http.json(call)).await.about(id)
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
    #[serde(rename = "OOMKilled")]
    pub(crate) oom_killed: bool,
    pub(crate) exit_code: i64,
    pub(crate) error: String,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
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
    pub(crate) port_bindings: Option<BTreeMap<String, Option<Vec<PortBinding>>>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct LogConfig {
    #[serde(rename = "Type")]
    pub(crate) driver: String,
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
