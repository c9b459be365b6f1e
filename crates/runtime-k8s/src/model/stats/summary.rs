//! Parses the summary of a kubelet, and the metrics API.

use std::time::{Duration, SystemTime};

use runtime_core::Result;
use serde::Deserialize;

use super::Measurement;
use crate::json::read as read_json;
use crate::model::api::Time;
use crate::model::labels::CONTAINER;
use crate::quantity::quantity;

/// The measurement of a pod in the summary.
#[derive(Debug)]
pub(crate) struct PodMeasurement {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) measured: Measurement,
}

#[derive(Debug, Deserialize)]
struct Summary {
    #[serde(default)]
    pods: Vec<PodStats>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodRef,
    #[serde(default)]
    containers: Vec<ContainerStats>,
    network: Option<Network>,
}

#[derive(Debug, Deserialize)]
struct PodRef {
    name: String,
    uid: String,
}

#[derive(Debug, Deserialize)]
struct ContainerStats {
    name: String,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Time,
    usage_nano_cores: Option<u64>,
    usage_core_nano_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    time: Time,
    working_set_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Network {
    /// All interfaces. The other fields are those of the first interface.
    #[serde(default)]
    interfaces: Vec<Interface>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    name: String,
    rx_bytes: Option<u64>,
    tx_bytes: Option<u64>,
}

/// Parses `/stats/summary`.
pub(crate) fn read(json: &[u8]) -> Result<Vec<PodMeasurement>> {
    let summary: Summary = read_json(json)?;
    Ok(summary.pods.into_iter().filter_map(pod).collect())
}

fn pod(pod: PodStats) -> Option<PodMeasurement> {
    let main = pod.containers.into_iter().find(|container| container.name == CONTAINER)?;
    let mut measured = Measurement::default();
    if let Some(cpu) = main.cpu {
        measured.time = Some(cpu.time.0);
        measured.cpu = cpu.usage_core_nano_seconds.map(Duration::from_nanos);
        measured.cores = cpu.usage_nano_cores.map(nanos);
    }
    if let Some(memory) = main.memory {
        measured.time = measured.time.or(Some(memory.time.0));
        measured.memory = memory.working_set_bytes;
    }
    let outside: Vec<Interface> = pod
        .network
        .map(|network| network.interfaces)
        .unwrap_or_default()
        .into_iter()
        .filter(|interface| interface.name != "lo")
        .collect();
    if !outside.is_empty() {
        measured.received = Some(outside.iter().filter_map(|i| i.rx_bytes).sum());
        measured.sent = Some(outside.iter().filter_map(|i| i.tx_bytes).sum());
    }
    Some(PodMeasurement { name: pod.pod_ref.name, uid: pod.pod_ref.uid, measured })
}

#[expect(clippy::cast_precision_loss, reason = "a double is precise enough for nanoseconds of CPU")]
fn nanos(cores: u64) -> f64 {
    cores as f64 / 1e9
}

#[derive(Debug, Deserialize)]
struct MetricsList {
    #[serde(default)]
    items: Vec<PodMetrics>,
}

#[derive(Debug, Deserialize)]
struct PodMetrics {
    metadata: MetricsMeta,
    timestamp: Option<Time>,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Debug, Deserialize)]
struct MetricsMeta {
    name: String,
}

#[derive(Debug, Deserialize)]
struct ContainerMetrics {
    name: String,
    usage: Usage,
}

#[derive(Debug, Deserialize)]
struct Usage {
    cpu: Option<String>,
    memory: Option<String>,
}

/// Parses the metrics of pods, by their names.
pub(crate) fn read_metrics(json: &[u8]) -> Result<Vec<(String, Measurement)>> {
    let list: MetricsList = read_json(json)?;
    Ok(list
        .items
        .into_iter()
        .filter_map(|pod| {
            let main = pod.containers.into_iter().find(|c| c.name == CONTAINER)?;
            let measured = Measurement {
                time: Some(pod.timestamp.map_or_else(SystemTime::now, |time| time.0)),
                cores: main.usage.cpu.as_deref().and_then(quantity),
                memory: main
                    .usage
                    .memory
                    .as_deref()
                    .and_then(quantity)
                    .and_then(crate::quantity::whole),
                ..Measurement::default()
            };
            Some((pod.metadata.name, measured))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_is_parsed() {
        let json = br#"{"node": {"nodeName": "n"}, "pods": [
            {"podRef": {"name": "p", "namespace": "x", "uid": "u"}, "startTime": "2026-11-23T16:00:00Z",
             "containers": [{"name": "main", "startTime": "2026-11-23T16:00:00Z",
                "cpu": {"time": "2026-11-23T16:00:05Z", "usageNanoCores": 250000000, "usageCoreNanoSeconds": 1500000000},
                "memory": {"time": "2026-11-23T16:00:05Z", "workingSetBytes": 4096, "rssBytes": 1}}],
             "network": {"time": "2026-11-23T16:00:05Z", "name": "eth0", "rxBytes": 5, "txBytes": 7,
                "interfaces": [{"name": "eth0", "rxBytes": 5, "txBytes": 7}, {"name": "lo", "rxBytes": 99, "txBytes": 99},
                    {"name": "eth1", "rxBytes": 1, "txBytes": 1}]}},
            {"podRef": {"name": "new", "namespace": "x", "uid": "v"}, "containers": []}]}"#;
        let pods = read(json).unwrap();
        assert_eq!(pods.len(), 1);
        let PodMeasurement { name, uid, measured } = &pods[0];
        assert_eq!((name.as_str(), uid.as_str()), ("p", "u"));
        assert_eq!(measured.cpu, Some(Duration::from_millis(1500)));
        assert_eq!(measured.cores, Some(0.25));
        assert_eq!(measured.memory, Some(4096));
        assert_eq!((measured.received, measured.sent), (Some(6), Some(8)));
    }

    #[test]
    fn metrics_are_parsed() {
        let json = br#"{"items": [{"metadata": {"name": "p"}, "timestamp": "2026-11-23T16:00:05Z", "window": "30s",
            "containers": [{"name": "main", "usage": {"cpu": "250m", "memory": "4Ki"}}]}]}"#;
        let pods = read_metrics(json).unwrap();
        assert_eq!(pods[0].0, "p");
        assert_eq!((pods[0].1.cores, pods[0].1.memory), (Some(0.25), Some(4096)));
    }

    #[test]
    fn malformed_summary_returns_error() {
        assert!(read(b"<html>").is_err());
        assert!(read_metrics(b"3").is_err());
    }
}
