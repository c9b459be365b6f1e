//! What a container uses.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Samples of one container, until it ends. It ends after the first error.
pub type StatsStream = Pin<Box<dyn Stream<Item = Result<ContainerStats>> + Send>>;

/// What a container used at one moment. A value that the engine does not give is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerStats {
    /// When it was measured, by the engine's clock.
    pub time: SystemTime,
    /// CPU use since the sample before, in percent of the container's CPU limit, or of all CPUs
    /// of the host where it has none. `None` when there is no sample before.
    pub cpu_percent: Option<f64>,
    /// CPU time since the start, user and system, of all CPUs together.
    pub cpu_time: Option<Duration>,
    /// Memory in bytes, without the page cache that the kernel can take back (the working set:
    /// usage less `inactive_file`, as Docker's command line and the kubelet count it).
    pub memory_bytes: Option<u64>,
    /// `memory_bytes` in percent of the container's limit, or of the host's memory where it has
    /// none.
    pub memory_percent: Option<f64>,
    /// Bytes received over all network interfaces but loopback, since the start.
    pub network_rx_bytes: Option<u64>,
    /// Bytes sent over all network interfaces but loopback, since the start.
    pub network_tx_bytes: Option<u64>,
    /// Bytes read from block devices since the start.
    pub block_read_bytes: Option<u64>,
    /// Bytes written to block devices since the start.
    pub block_write_bytes: Option<u64>,
}

impl ContainerStats {
    /// A sample that knows nothing but its time.
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

    /// One value by its type.
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

    /// The values that are there, by their type.
    pub fn iter(&self) -> impl Iterator<Item = (StatType, f64)> + '_ {
        StatType::ALL.iter().filter_map(|&stat| self.get(stat).map(|value| (stat, value)))
    }
}

/// The name of one value of [`ContainerStats`].
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
    /// All of them.
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
