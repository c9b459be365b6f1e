//! The configuration file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// The configuration file. Command line and environment take precedence.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Same as `--backend`.
    pub(crate) backend: Option<String>,
    /// Same as `--scope`.
    pub(crate) scope: Option<String>,
    /// Options of Kubernetes.
    pub(crate) k8s: Kubernetes,
    /// Options of containerd and CRI-O.
    pub(crate) cri: Cri,
}

/// Section `[k8s]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Kubernetes {
    /// The kubeconfig file.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The kubeconfig context.
    pub(crate) context: Option<String>,
    /// The namespace.
    pub(crate) namespace: Option<String>,
    /// The node to which all pods are bound.
    pub(crate) node: Option<String>,
    /// The container engine of that node, if this process runs on it.
    pub(crate) node_engine: Option<String>,
    /// The path of `/var/log/pods` on that node.
    pub(crate) node_logs: Option<PathBuf>,
    /// The source of stats.
    pub(crate) stats: Stats,
    /// The resource in which GPUs are counted.
    pub(crate) gpu_resource: Option<String>,
    /// The handling of CPU shares.
    pub(crate) cpu_shares: CpuShares,
}

/// Handling of CPU shares, for which Kubernetes has no field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CpuShares {
    /// CPU shares are refused.
    #[default]
    Refused,
    /// CPU shares become a CPU request: 1024 shares are one CPU.
    AsRequest,
}

/// Source of the stats of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stats {
    /// The metrics API.
    #[default]
    MetricsApi,
    /// The kubelets, which requires the right to `nodes/proxy`.
    NodeProxy,
}

/// Section `[cri]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cri {
    /// The directory of container logs.
    pub(crate) log_dir: Option<PathBuf>,
    /// The directory of state that is lost on a reboot of the host.
    pub(crate) state_dir: Option<PathBuf>,
    /// The runtime handler.
    pub(crate) runtime_handler: Option<String>,
}

impl Config {
    /// Reads the file at `named`, which must exist, or the default file, which may be missing.
    pub(crate) fn read(named: Option<&Path>) -> Result<Self> {
        let default = default_path();
        let Some(path) = named.or(default.as_deref()) else { return Ok(Self::default()) };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                toml::from_str(&text).with_context(|| format!("failed to parse {}", path.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
                Ok(Self::default())
            }
            Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
        }
    }
}

/// Returns the default path by the XDG base directory specification.
pub(crate) fn default_path() -> Option<PathBuf> {
    let directory =
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")))?;
    Some(base.join("runtime/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new key does not compile until this test has it, and fails until the document has it.
    #[test]
    fn example_of_the_documentation_has_all_keys() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
        let document = std::fs::read_to_string(document).unwrap();
        let (_, example) = document.split_once("```toml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let Config { backend, scope, k8s, cri } = toml::from_str(example).unwrap();
        let Kubernetes {
            kubeconfig,
            context,
            namespace,
            node,
            node_engine,
            node_logs,
            stats,
            gpu_resource,
            cpu_shares,
        } = k8s;
        let Cri { log_dir, state_dir, runtime_handler } = cri;
        let texts = [backend, scope, context, namespace, node, node_engine, gpu_resource];
        assert!(texts.iter().chain([&runtime_handler]).all(Option::is_some), "{texts:?}");
        let paths = [kubeconfig, node_logs, log_dir, state_dir];
        assert!(paths.iter().all(Option::is_some), "{paths:?}");
        assert_eq!((stats, cpu_shares), (Stats::NodeProxy, CpuShares::AsRequest));
    }

    #[test]
    fn config_file_is_read_and_invalid_key_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.toml");
        assert!(Config::read(Some(&path)).is_err());
        std::fs::write(
            &path,
            "backend = \"cri\"\n[k8s]\nnamespace = \"n\"\nstats = \"node-proxy\"\n",
        )
        .unwrap();
        let config = Config::read(Some(&path)).unwrap();
        assert_eq!(config.backend.as_deref(), Some("cri"));
        assert_eq!(config.k8s.namespace.as_deref(), Some("n"));
        assert_eq!(config.k8s.stats, Stats::NodeProxy);
        std::fs::write(&path, "beckend = \"cri\"").unwrap();
        let error = format!("{:#}", Config::read(Some(&path)).unwrap_err());
        assert!(error.contains("c.toml") && error.contains("beckend"), "{error}");
    }
}
