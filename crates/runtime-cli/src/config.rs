//! The configuration file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// What the file says. What the command line and the environment say comes before it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// As `--backend`.
    pub(crate) backend: Option<String>,
    /// As `--scope`.
    pub(crate) scope: Option<String>,
    /// Where Kubernetes pods go.
    pub(crate) k8s: Kubernetes,
    /// How containerd or CRI-O is used.
    pub(crate) cri: Cri,
}

/// The part `[k8s]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Kubernetes {
    /// The kubeconfig file.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context of it.
    pub(crate) context: Option<String>,
    /// The namespace.
    pub(crate) namespace: Option<String>,
    /// The one node to use.
    pub(crate) node: Option<String>,
    /// The container engine of that node, where this runs on it.
    pub(crate) node_engine: Option<String>,
    /// Where that node's `/var/log/pods` is.
    pub(crate) node_logs: Option<PathBuf>,
    /// Where stats come from.
    pub(crate) stats: Stats,
    /// The resource that GPUs by number are counted in.
    pub(crate) gpu_resource: Option<String>,
    /// What becomes of CPU shares.
    pub(crate) cpu_shares: CpuShares,
}

/// What becomes of CPU shares, for which Kubernetes has no field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CpuShares {
    /// They are refused.
    #[default]
    Refused,
    /// They become a CPU request: 1024 are one CPU.
    AsRequest,
}

/// Where the stats of pods come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stats {
    /// The metrics API.
    #[default]
    MetricsApi,
    /// The kubelets, which takes the right to `nodes/proxy`.
    NodeProxy,
}

/// The part `[cri]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cri {
    /// The folder for the logs.
    pub(crate) log_dir: Option<PathBuf>,
    /// The folder for what goes away with the host's next start.
    pub(crate) state_dir: Option<PathBuf>,
    /// The runtime handler.
    pub(crate) runtime_handler: Option<String>,
}

impl Config {
    /// Reads the file: the one that was named, which has to be there, or the usual one.
    pub(crate) fn read(named: Option<&Path>) -> Result<Self> {
        let usual = usual_place();
        let Some(path) = named.or(usual.as_deref()) else { return Ok(Self::default()) };
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .with_context(|| format!("the configuration file {}", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
                Ok(Self::default())
            }
            Err(error) => {
                Err(error).with_context(|| format!("the configuration file {}", path.display()))
            }
        }
    }
}

/// As the XDG base directories have it.
pub(crate) fn usual_place() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
    Some(base.join("runtime/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The README's example has every key: a new one does not compile until it is here, and fails
    /// until it is there.
    #[test]
    fn the_example_of_the_readme_has_all_keys() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let (_, example) = readme.split_once("```toml\n").unwrap();
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
    fn a_file_is_read_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
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
