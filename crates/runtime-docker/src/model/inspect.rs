//! The response of `/containers/{id}/json`, as far as it is used.
//!
//! It does not use bollard's types, because they fail to parse a whole response for one unknown state
//! or mode.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspect {
    pub(crate) id: String,
    /// With a leading slash.
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) created: String,
    /// The image id.
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
    /// Reported by the engine, or by the kernel's log if the engine has missed it.
    #[serde(rename = "OOMKilled")]
    pub(crate) oom_killed: bool,
    pub(crate) exit_code: i64,
    pub(crate) error: String,
    pub(crate) started_at: String,
    pub(crate) finished_at: String,
    /// `true` if the exit code and the end time are made up by the engine.
    #[serde(skip)]
    pub(crate) is_exit_unobserved: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Config {
    /// The requested image.
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
    /// Returns the mount points of its tmpfs file systems.
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
    /// Returns `true` if the engine deletes the oldest part of the log at a size limit.
    ///
    /// `json-file` has a limit if `max-size` is set. The engine adds its default options at the
    /// create. `local` always has a limit, also as the cache of drivers whose log cannot be read.
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
    /// From a port such as `80/tcp` to its bindings on the host.
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
    use serde_json::json;

    use super::*;

    #[test]
    fn logs_with_size_limit_rotate() {
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
}
