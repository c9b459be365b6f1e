//! The answer of `/containers/{id}/json`, as far as it is used.
//!
//! It is read by types of our own: bollard's refuse a whole answer for one state or mode that
//! they do not know.

use std::collections::BTreeMap;

use serde::Deserialize;

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
    use serde_json::json;

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
}
