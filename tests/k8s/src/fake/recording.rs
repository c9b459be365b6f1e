//! Recorded pods that are replayed on the fake server.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::Value;

use super::store::text;
use super::{FakeServer, NAMESPACE};

/// Watch events of one pod, as sent by a real server. See `recordings/README.md`.
#[derive(Debug, Clone)]
pub struct Recording {
    events: Vec<(bool, Value)>,
}

impl Recording {
    /// Reads `recordings/NAME.watch.jsonl`.
    ///
    /// # Panics
    /// If the recording does not exist or cannot be read.
    #[must_use]
    pub fn read(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("recordings")
            .join(format!("{name}.watch.jsonl"));
        let lines = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()));
        let events = lines
            .lines()
            .map(|line| {
                let mut event: Value = serde_json::from_str(line).unwrap();
                (event["type"] == "DELETED", event["object"].take())
            })
            .collect();
        Self { events }
    }

    /// Returns the recorded pods, one for each event.
    pub fn pods(&self) -> impl Iterator<Item = &Value> {
        self.events.iter().map(|(_, pod)| pod)
    }
}

/// Replay of a recording on a pod of a fake server, step by step.
#[derive(Debug)]
pub struct Playback<'a> {
    server: &'a FakeServer,
    pod: String,
    events: std::vec::IntoIter<(bool, Value)>,
    /// Offset of the recorded times in seconds.
    shift: i64,
}

impl FakeServer {
    /// Prepares a recording for an existing pod. The pod takes the status, the node, the generation and the
    /// deletion from the recording; the rest of its metadata and spec stays as its clients set it.
    ///
    /// # Panics
    /// If the server does not have the pod.
    #[must_use]
    pub fn play(&self, pod: &str, recording: &Recording) -> Playback<'_> {
        let ours = self.pod(pod).unwrap_or_else(|| panic!("no pod {pod}"));
        let created = |pod: &Value| -> i64 {
            let time = text(pod, "/metadata/creationTimestamp");
            time.parse::<Timestamp>().unwrap_or_default().as_second()
        };
        let events = recording.events.clone();
        let shift = created(&ours) - events.first().map_or(0, |(_, pod)| created(pod));
        Playback { server: self, pod: pod.to_owned(), events: events.into_iter(), shift }
    }
}

impl Playback<'_> {
    /// Takes the next step. Returns the recorded pod, or `None` at the end.
    pub fn step(&mut self) -> Option<Value> {
        let (deleted, recorded) = self.events.next()?;
        self.server.change_pod(&self.pod, |pod| {
            let mut status = recorded["status"].clone();
            shift_times(&mut status, self.shift);
            pod["status"] = status;
            if !recorded["spec"]["nodeName"].is_null() {
                pod["spec"]["nodeName"] = recorded["spec"]["nodeName"].clone();
            }
            for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
                if !recorded["metadata"][field].is_null() {
                    let mut value = recorded["metadata"][field].clone();
                    shift_times(&mut value, self.shift);
                    pod["metadata"][field] = value;
                }
            }
        });
        if deleted {
            self.server.store().remove("pods", NAMESPACE, &self.pod);
        }
        Some(recorded)
    }

    /// Takes steps up to and including the first one whose recorded pod matches.
    ///
    /// # Panics
    /// If none matches.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) {
        while let Some(recorded) = self.step() {
            if wanted(&recorded) {
                return;
            }
        }
        panic!("the recording ends before the pod is as wanted");
    }

    /// Takes steps until the main process runs.
    ///
    /// # Panics
    /// If it never runs.
    pub fn until_running(&mut self) {
        self.until(|pod| !pod["status"]["containerStatuses"][0]["state"]["running"].is_null());
    }

    /// Takes steps until the main process has exited.
    ///
    /// # Panics
    /// If it never exits.
    pub fn until_ended(&mut self) {
        self.until(|pod| !pod["status"]["containerStatuses"][0]["state"]["terminated"].is_null());
    }

    /// Takes all remaining steps.
    pub fn to_the_end(&mut self) {
        while self.step().is_some() {}
    }
}

/// Shifts all times of a value.
fn shift_times(value: &mut Value, seconds: i64) {
    match value {
        Value::String(text) => {
            if text.len() >= 20
                && let Ok(time) = text.parse::<Timestamp>()
                && let Ok(moved) = Timestamp::from_second(time.as_second() + seconds)
            {
                *text = moved.to_string();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| shift_times(item, seconds)),
        Value::Object(fields) => fields.values_mut().for_each(|item| shift_times(item, seconds)),
        _ => {}
    }
}
