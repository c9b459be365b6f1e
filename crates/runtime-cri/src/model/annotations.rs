//! Annotations on a sandbox and its container, which every process of this library reads.
//!
//! The CRI returns only a part of a create request, and no information about the files and ports of
//! the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime_core::{LABEL_PREFIX, Signal, TcpPortBinding};
use serde::{Deserialize, Serialize};

use super::log_directory::LogDirectory;

/// Key of the engine's annotation that holds all of these as JSON.
pub(crate) const ANNOTATION: &str = "container-runtime/notes";

/// Returns the label of a sandbox that publishes this port of the host.
pub(crate) fn port_label(port: u16) -> (String, String) {
    (format!("{PORT_LABEL}{port}"), "tcp".to_owned())
}

/// Prefix of the labels of published ports.
pub(crate) const PORT_LABEL: &str = "container-runtime/host-port.";

/// Maximum length of the key and the value of a label of containerd together.
const LABEL_BYTES_MAX: usize = 4096;

/// Annotations of a container, see the [module](self).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Annotations {
    /// Normalised image reference of the spec.
    pub(crate) image: String,
    /// Image reference with the digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolved: Option<String>,
    /// Id of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image_id: Option<String>,
    /// Published ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<TcpPortBinding>,
    /// Memory limit in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<u64>,
    /// CPU limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_count: Option<f64>,
    /// Whether the main process has a terminal.
    pub(crate) terminal: bool,
    /// Whether the main process has stdin.
    pub(crate) stdin: bool,
    /// Grace of a stop, in whole seconds.
    pub(crate) stop_grace: u64,
    /// Stop signal of the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<Signal>,
    /// Log directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logs: Option<PathBuf>,
    /// Name of the current log file of a container of a kubelet.
    #[serde(skip)]
    pub(crate) kubelets_log: Option<String>,
    /// Path on this host at which the /dev/shm of the container is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shared_memory: Option<PathBuf>,
    /// Path on this host of the /etc/hosts of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hosts: Option<PathBuf>,
    /// Labels that are too long for the engine.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
}

impl Annotations {
    /// Reads the annotations. Returns `None` for a sandbox or container of another program.
    pub(crate) fn read(annotations: &BTreeMap<String, String>) -> Option<Self> {
        serde_json::from_str(annotations.get(ANNOTATION)?).ok()
    }

    /// Returns the annotations in the form of a request.
    pub(crate) fn to_map(&self) -> BTreeMap<String, String> {
        // This cannot fail, because the paths were checked to be UTF-8.
        let text = serde_json::to_string(self).unwrap_or_default();
        BTreeMap::from([(ANNOTATION.to_owned(), text)])
    }

    /// Returns the grace of a stop.
    pub(crate) fn stop_grace(&self) -> Duration {
        Duration::from_secs(self.stop_grace)
    }

    /// Returns the log directory.
    pub(crate) fn log_directory(&self) -> Option<LogDirectory> {
        let directory = self.logs.as_deref()?;
        Some(match &self.kubelets_log {
            Some(file) => LogDirectory::kubelet(directory, file),
            None => LogDirectory::managed(directory),
        })
    }

    /// Returns the path of the mark that this library stopped the container. A container of a
    /// kubelet has its mark in the pod.
    pub(crate) fn stop_mark(&self) -> Option<PathBuf> {
        self.mark("stopped")
    }

    /// Returns the path of the mark of an out-of-memory kill that the engine has missed.
    pub(crate) fn out_of_memory_mark(&self) -> Option<PathBuf> {
        self.mark("out-of-memory")
    }

    /// Returns the path of the file that is locked while an exec starts.
    pub(crate) fn exec_lock(&self) -> Option<PathBuf> {
        self.mark("exec.lock")
    }

    fn mark(&self, name: &str) -> Option<PathBuf> {
        if self.kubelets_log.is_some() {
            return None;
        }
        self.logs.as_deref().map(|logs: &Path| logs.join(name))
    }

    /// Stores the labels that are too long for the engine, and returns the others.
    pub(crate) fn store_long(
        &mut self,
        labels: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let (short, long): (BTreeMap<_, _>, BTreeMap<_, _>) =
            labels.into_iter().partition(|(key, value)| key.len() + value.len() <= LABEL_BYTES_MAX);
        self.labels = long;
        short
    }

    /// Returns the labels of the spec from those of the engine and the stored ones.
    pub(crate) fn spec_labels(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        labels
            .iter()
            .chain(&self.labels)
            .filter(|(key, _)| !key.starts_with(LABEL_PREFIX))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn read_does_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            key in "image|ports|memory|cpu_count|stop_grace|stop_signal|logs|labels",
            value in r#"-?[0-9]{1,25}(\.[0-9]{1,9})?|null|true|"[a-zA-Z0-9/\\]{0,9}"|\[\]|\{\}"#,
        ) {
            let object = format!("{{\"{key}\":{value}}}");
            for text in [String::from_utf8_lossy(&bytes).into_owned(), object] {
                let annotations = Annotations::read(&BTreeMap::from([(ANNOTATION.to_owned(), text)]));
                let Some(annotations) = annotations else { continue };
                annotations.stop_grace();
                annotations.log_directory();
                prop_assert!(Annotations::read(&annotations.to_map()).is_some());
            }
        }
    }

    #[test]
    fn annotations_survive_a_round_trip() {
        let mut annotations = Annotations {
            image: "r.io/a:1".to_owned(),
            ports: vec![TcpPortBinding { host_port: 40000, container_port: 80 }],
            memory: Some(1 << 30),
            cpu_count: Some(0.5),
            stop_grace: 7,
            stop_signal: Some(Signal::INT),
            logs: Some("/var/log/x".into()),
            ..Annotations::default()
        };
        let long = "x".repeat(LABEL_BYTES_MAX);
        let labels = [("a", "b"), ("k", &long), ("container-runtime/scope", "s")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let short = annotations.store_long(labels.clone().into());
        assert_eq!(short.len(), 2);
        let back = Annotations::read(&annotations.to_map()).unwrap();
        assert_eq!(back, annotations);
        let mut callers = BTreeMap::from(labels);
        callers.remove("container-runtime/scope");
        assert_eq!(back.spec_labels(&short), callers);
    }

    #[test]
    fn read_of_foreign_annotations_is_none() {
        assert_eq!(Annotations::read(&BTreeMap::new()), None);
        let broken = BTreeMap::from([(ANNOTATION.to_owned(), "{".to_owned())]);
        assert_eq!(Annotations::read(&broken), None);
    }
}
