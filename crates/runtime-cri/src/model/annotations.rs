//! What we write on a sandbox and its container, to be read back by any process.
//!
//! The CRI does not give back much of what was asked for, and finds nothing that lies outside of
//! the engine: the folder of the logs, a mount, the ports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime_core::{LABEL_PREFIX, Signal, TcpPortBinding};
use serde::{Deserialize, Serialize};

use super::log_directory::LogDirectory;

/// The annotation that holds the annotations.
pub(crate) const ANNOTATION: &str = "container-runtime/notes";

/// Returns the label of a sandbox that publishes this port of the host.
pub(crate) fn port_label(port: u16) -> (String, String) {
    (format!("{PORT_LABEL}{port}"), "tcp".to_owned())
}

/// What the labels of published ports begin with.
pub(crate) const PORT_LABEL: &str = "container-runtime/host-port.";

/// containerd takes no label whose key and value together are longer.
const LONGEST_LABEL: usize = 4096;

/// See the module.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Annotations {
    /// The image as asked for, normalised.
    pub(crate) image: String,
    /// The image with its digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolved: Option<String>,
    /// The engine's id of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image_id: Option<String>,
    /// The published ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<TcpPortBinding>,
    /// The limit on memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<u64>,
    /// The limit on CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_count: Option<f64>,
    /// Whether the main process has a terminal.
    pub(crate) terminal: bool,
    /// Whether the main process has a standard input.
    pub(crate) stdin: bool,
    /// The grace of a stop, in whole seconds.
    pub(crate) stop_grace: u64,
    /// The stop signal, where the caller gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<Signal>,
    /// The folder of the log files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logs: Option<PathBuf>,
    /// The name of the current log file, where a kubelet has chosen it.
    #[serde(skip)]
    pub(crate) kubelets_log: Option<String>,
    /// Where the container's /dev/shm is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shared_memory: Option<PathBuf>,
    /// The container's /etc/hosts on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hosts: Option<PathBuf>,
    /// Labels that are too long for the engine.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
}

impl Annotations {
    /// Reads the annotations of something that this library made. What others made has none.
    pub(crate) fn read(annotations: &BTreeMap<String, String>) -> Option<Self> {
        serde_json::from_str(annotations.get(ANNOTATION)?).ok()
    }

    /// The annotations to put on what is made.
    pub(crate) fn to_map(&self) -> BTreeMap<String, String> {
        // Nothing in it can fail to become JSON: the paths were checked to be UTF-8.
        let text = serde_json::to_string(self).unwrap_or_default();
        BTreeMap::from([(ANNOTATION.to_owned(), text)])
    }

    pub(crate) fn stop_grace(&self) -> Duration {
        Duration::from_secs(self.stop_grace)
    }

    /// Where the log files are.
    pub(crate) fn log_directory(&self) -> Option<LogDirectory> {
        let folder = self.logs.as_deref()?;
        Some(match &self.kubelets_log {
            Some(file) => LogDirectory::kubelet(folder, file),
            None => LogDirectory::managed(folder),
        })
    }

    /// The file that says that this library stopped the container. What a kubelet has made is
    /// marked in its pod.
    pub(crate) fn stop_mark(&self) -> Option<PathBuf> {
        self.mark("stopped")
    }

    /// The file that says that the container ran out of memory, where the engine does not.
    pub(crate) fn out_of_memory_mark(&self) -> Option<PathBuf> {
        self.mark("out-of-memory")
    }

    /// The file that is locked while an exec of the container starts.
    pub(crate) fn exec_lock(&self) -> Option<PathBuf> {
        self.mark("exec.lock")
    }

    fn mark(&self, name: &str) -> Option<PathBuf> {
        if self.kubelets_log.is_some() {
            return None;
        }
        self.logs.as_deref().map(|logs: &Path| logs.join(name))
    }

    /// Takes the labels that the engine does not, and gives back those that it does.
    pub(crate) fn keep_long(
        &mut self,
        labels: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let (short, long): (BTreeMap<_, _>, BTreeMap<_, _>) =
            labels.into_iter().partition(|(key, value)| key.len() + value.len() <= LONGEST_LABEL);
        self.labels = long;
        short
    }

    /// The caller's labels, out of those of the engine and these.
    pub(crate) fn callers_labels(
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
        fn nothing_makes_it_panic(
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
    fn notes_come_back_as_they_were_written() {
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
        let long = "x".repeat(LONGEST_LABEL);
        let labels = [("a", "b"), ("k", &long), ("container-runtime/scope", "s")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let short = annotations.keep_long(labels.clone().into());
        assert_eq!(short.len(), 2);
        let back = Annotations::read(&annotations.to_map()).unwrap();
        assert_eq!(back, annotations);
        let mut callers = BTreeMap::from(labels);
        callers.remove("container-runtime/scope");
        assert_eq!(back.callers_labels(&short), callers);
    }

    #[test]
    fn what_is_not_ours_has_no_notes() {
        assert_eq!(Annotations::read(&BTreeMap::new()), None);
        let broken = BTreeMap::from([(ANNOTATION.to_owned(), "{".to_owned())]);
        assert_eq!(Annotations::read(&broken), None);
    }
}
