//! The response of `/containers/{id}/stats`, on cgroup v1 and v2, and on Podman.

use std::collections::BTreeMap;
use std::time::Duration;

use runtime_core::ContainerStats;
use serde::Deserialize;

use super::time::parse_rfc3339;

/// The used parts of the response. Values that the engine omits or sets to null are absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StatsResponse {
    read: String,
    cpu_stats: CpuStats,
    memory_stats: MemoryStats,
    networks: Option<BTreeMap<String, Network>>,
    blkio_stats: BlockStats,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CpuStats {
    cpu_usage: CpuUsage,
    online_cpus: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CpuUsage {
    /// Nanoseconds.
    total_usage: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MemoryStats {
    usage: Option<u64>,
    /// The container's limit, or the host's memory if it has none.
    limit: Option<u64>,
    stats: Option<Cache>,
}

/// The page cache that the kernel can reclaim immediately.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cache {
    /// On cgroup v1, including child cgroups.
    total_inactive_file: Option<u64>,
    /// On cgroup v2. On cgroup v1 it excludes child cgroups.
    inactive_file: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    rx_bytes: u64,
    tx_bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BlockStats {
    io_service_bytes_recursive: Option<Vec<BlockEntry>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BlockEntry {
    /// `Read` on cgroup v1, `read` on cgroup v2, and others.
    op: String,
    value: u64,
}

impl StatsResponse {
    /// Converts the response, without the CPU percentage. Returns `None` if the container is not
    /// running: Docker returns a sample of zeros at the zero time then.
    pub(crate) fn stats(&self, swapped_network: bool) -> Option<ContainerStats> {
        let mut stats = ContainerStats::new(parse_rfc3339(self.read.as_bytes())?);
        stats.cpu_time = self.cpu_stats.cpu_usage.total_usage.map(Duration::from_nanos);
        stats.memory_bytes = self.memory();
        stats.memory_percent = stats.memory_bytes.and_then(|bytes| self.memory_percent(bytes));
        let received = self.network(|network| network.rx_bytes);
        let sent = self.network(|network| network.tx_bytes);
        (stats.network_rx_bytes, stats.network_tx_bytes) =
            if swapped_network { (sent, received) } else { (received, sent) };
        stats.block_read_bytes = self.block("read");
        stats.block_write_bytes = self.block("write");
        Some(stats)
    }

    /// Returns the number of CPUs of the host.
    pub(crate) fn online_cpus(&self) -> Option<f64> {
        self.cpu_stats.online_cpus.filter(|cpus| *cpus > 0).map(f64::from)
    }

    /// Returns the memory without page cache, as Docker's command line does. `None` on Podman 4.3,
    /// which does not report the cache.
    fn memory(&self) -> Option<u64> {
        let usage = self.memory_stats.usage?;
        let cache = self.memory_stats.stats.as_ref()?;
        let cache = cache.total_inactive_file.or(cache.inactive_file)?;
        // The engine does not read both at the same time.
        Some(usage.saturating_sub(cache))
    }

    #[expect(clippy::cast_precision_loss, reason = "a double counts bytes exactly up to 8 PiB")]
    fn memory_percent(&self, bytes: u64) -> Option<f64> {
        let limit = self.memory_stats.limit.filter(|limit| *limit > 0)?;
        Some(bytes as f64 / limit as f64 * 100.0)
    }

    fn network(&self, value: fn(&Network) -> u64) -> Option<u64> {
        let networks = self.networks.as_ref()?;
        let mut real = networks.iter().filter(|(name, _)| *name != "lo").peekable();
        real.peek()?;
        Some(real.fold(0, |sum, (_, network)| sum.saturating_add(value(network))))
    }

    fn block(&self, op: &str) -> Option<u64> {
        let entries = self.blkio_stats.io_service_bytes_recursive.as_ref()?;
        let mut entries =
            entries.iter().filter(|entry| entry.op.eq_ignore_ascii_case(op)).peekable();
        entries.peek()?;
        Some(entries.fold(0, |sum, entry| sum.saturating_add(entry.value)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stats(json: &str, swapped: bool) -> Option<ContainerStats> {
        serde_json::from_str::<StatsResponse>(json).unwrap().stats(swapped)
    }

    #[test]
    fn docker_on_cgroup_v1_has_all_values() {
        // Recorded from 20.10, shortened.
        let json = include_str!("stats/testdata/docker-20.10-cgroup-v1.json");
        let stats = stats(json, false).unwrap();
        assert_eq!(stats.cpu_time, Some(Duration::from_nanos(1_328_814_311)));
        assert_eq!(stats.memory_bytes, Some(77_725_696 - 1_052_672));
        let percent = stats.memory_percent.unwrap();
        assert!((percent - 76_673_024.0 / 134_217_728.0 * 100.0).abs() < 1e-9, "{percent}");
        assert_eq!(
            (stats.network_rx_bytes, stats.network_tx_bytes),
            (Some(5_006_529), Some(2_824))
        );
        assert_eq!((stats.block_read_bytes, stats.block_write_bytes), (Some(69_633), Some(8_192)));
        let time = parse_rfc3339(b"2026-11-23T17:02:56.48006905Z").unwrap();
        assert_eq!((stats.time, stats.cpu_percent), (time, None));
    }

    #[test]
    fn docker_on_cgroup_v2_has_all_values() {
        // From the engine's API documentation.
        let json = include_str!("stats/testdata/docker-cgroup-v2.json");
        let answer: StatsResponse = serde_json::from_str(json).unwrap();
        assert_eq!(answer.online_cpus(), Some(4.0));
        let stats = answer.stats(false).unwrap();
        assert_eq!(stats.cpu_time, Some(Duration::from_micros(366_422_000)));
        assert_eq!(stats.memory_bytes, Some(6_537_216 - 2_211_840));
        assert_eq!((stats.block_read_bytes, stats.block_write_bytes), (Some(7_593_984), Some(100)));
        assert_eq!((stats.network_rx_bytes, stats.network_tx_bytes), (Some(5_338), Some(648)));
    }

    #[test]
    fn podman_network_is_swapped_on_request() {
        // Recorded from 4.3, of a container that received 5 MB.
        let json = include_str!("stats/testdata/podman-4.3.json");
        let stats = stats(json, true).unwrap();
        assert_eq!(
            (stats.network_rx_bytes, stats.network_tx_bytes),
            (Some(5_007_614), Some(6_066))
        );
        assert_eq!((stats.memory_bytes, stats.memory_percent), (None, None));
        assert_eq!((stats.block_read_bytes, stats.block_write_bytes), (Some(4_096), Some(0)));
    }

    #[test]
    fn stopped_container_has_no_stats() {
        let json = include_str!("stats/testdata/docker-20.10-not-running.json");
        assert_eq!(stats(json, false), None);
    }

    #[test]
    fn omitted_values_are_absent() {
        let bare = r#"{"read":"2026-11-23T17:02:56Z","blkio_stats":{"io_service_bytes_recursive":[]},
            "networks":{"lo":{"rx_bytes":5,"tx_bytes":5}},"memory_stats":{"limit":5}}"#;
        let stats = stats(bare, false).unwrap();
        assert_eq!(stats, ContainerStats::new(stats.time));
        assert_eq!(stats.iter().count(), 0);
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "[{}\\[\\]\":,a-z0-9_]{0,60}", values in any::<[u64; 4]>()) {
            let _ = serde_json::from_str::<StatsResponse>(&text);
            let [usage, cache, rx, read] = values;
            let json = format!(
                r#"{{"read":"2026-11-23T17:02:56Z","memory_stats":{{"usage":{usage},"limit":{cache},
                "stats":{{"inactive_file":{cache}}}}},"networks":{{"a":{{"rx_bytes":{rx}}},"b":{{"rx_bytes":{rx}}}}},
                "blkio_stats":{{"io_service_bytes_recursive":[{{"op":"read","value":{read}}},{{"op":"Read","value":{read}}}]}}}}"#
            );
            prop_assert!(stats(&json, false).is_some());
        }
    }
}
