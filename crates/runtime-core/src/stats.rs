//! Resource use of containers.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Samples of one container. The stream ends when the container ends, or after the first error.
pub type StatsStream = Pin<Box<dyn Stream<Item = Result<ContainerStats>> + Send>>;

/// Resource use of a container at one moment. A value that the engine does not report is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerStats {
    /// Time of the measurement, by the engine's clock.
    pub time: SystemTime,
    /// CPU use since the previous sample, in percent of the container's CPU limit, or of all CPUs
    /// of the host if the container has no limit. `None` if there is no previous sample.
    pub cpu_percent: Option<f64>,
    /// User and system CPU time since the start, summed over all CPUs.
    pub cpu_time: Option<Duration>,
    /// Memory in bytes without reclaimable page cache (the working set: usage minus
    /// `inactive_file`, as computed by Docker's command line and the kubelet).
    pub memory_bytes: Option<u64>,
    /// `memory_bytes` in percent of the container's limit, or of the host's memory if the container
    /// has no limit.
    pub memory_percent: Option<f64>,
    /// Bytes received since the start on all network interfaces except loopback.
    pub network_rx_bytes: Option<u64>,
    /// Bytes sent since the start on all network interfaces except loopback.
    pub network_tx_bytes: Option<u64>,
    /// Bytes read from block devices since the start.
    pub block_read_bytes: Option<u64>,
    /// Bytes written to block devices since the start.
    pub block_write_bytes: Option<u64>,
}

impl ContainerStats {
    /// Creates a sample in which all values except the time are `None`.
    #[must_use]
    pub const fn new(time: SystemTime) -> Self {
        Self {
            time,
            cpu_percent: None,
            cpu_time: None,
            memory_bytes: None,
            memory_percent: None,
            network_rx_bytes: None,
            network_tx_bytes: None,
            block_read_bytes: None,
            block_write_bytes: None,
        }
    }

    /// Returns the value of one type, or `None` if the engine did not report it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a double counts bytes exactly up to 8 PiB")]
    pub fn get(&self, stat: StatType) -> Option<f64> {
        let bytes = |value: Option<u64>| value.map(|bytes| bytes as f64);
        match stat {
            StatType::CpuUsagePercent => self.cpu_percent,
            StatType::MemoryUsageBytes => bytes(self.memory_bytes),
            StatType::MemoryUsagePercent => self.memory_percent,
            StatType::NetworkRxBytes => bytes(self.network_rx_bytes),
            StatType::NetworkTxBytes => bytes(self.network_tx_bytes),
            StatType::BlockReadBytes => bytes(self.block_read_bytes),
            StatType::BlockWriteBytes => bytes(self.block_write_bytes),
        }
    }

    /// Iterates over the reported values and their types.
    pub fn iter(&self) -> impl Iterator<Item = (StatType, f64)> + '_ {
        StatType::ALL.iter().filter_map(|&stat| self.get(stat).map(|value| (stat, value)))
    }
}

/// Name of one value of [`ContainerStats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StatType {
    /// [`ContainerStats::cpu_percent`].
    #[serde(rename = "CPUUsagePercent")]
    CpuUsagePercent,
    /// [`ContainerStats::memory_bytes`].
    MemoryUsageBytes,
    /// [`ContainerStats::memory_percent`].
    MemoryUsagePercent,
    /// [`ContainerStats::network_rx_bytes`].
    NetworkRxBytes,
    /// [`ContainerStats::network_tx_bytes`].
    NetworkTxBytes,
    /// [`ContainerStats::block_read_bytes`].
    BlockReadBytes,
    /// [`ContainerStats::block_write_bytes`].
    BlockWriteBytes,
}

impl StatType {
    /// All types, in declaration order.
    pub const ALL: &'static [Self] = &[
        Self::CpuUsagePercent,
        Self::MemoryUsageBytes,
        Self::MemoryUsagePercent,
        Self::NetworkRxBytes,
        Self::NetworkTxBytes,
        Self::BlockReadBytes,
        Self::BlockWriteBytes,
    ];
}
