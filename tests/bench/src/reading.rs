//! Duration and cost of reading a log.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use runtime_core::{LogReader, RawLogs};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

use crate::measure::{Memory, Table, cpu_time, median, mib, seconds};

/// Result of reading a log.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) records: u64,
    /// Bytes of the lines' text.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu: Duration,
    /// Peak growth of the memory in bytes.
    pub(crate) growth: u64,
}

/// A measurement in progress.
pub(crate) struct Reading {
    before: u64,
    begun: Instant,
    cpu: Duration,
}

impl Reading {
    pub(crate) fn begin() -> Result<Self> {
        Memory::reset_peak()?;
        let (before, begun) = (Memory::read()?.now, Instant::now());
        Ok(Self { before, begun, cpu: cpu_time("self")? })
    }

    /// Reads all records.
    pub(crate) async fn of(self, mut log: LogReader) -> Result<Read> {
        let (mut records, mut bytes) = (0, 0);
        while let Some(record) = log.next().await {
            records += 1;
            bytes += record?.bytes.len() as u64;
        }
        self.end(records, bytes)
    }

    /// Reads all bytes.
    pub(crate) async fn of_raw(self, mut log: RawLogs) -> Result<Read> {
        let (mut pieces, mut bytes) = (0, 0);
        while let Some(piece) = log.next().await {
            pieces += 1;
            bytes += piece?.bytes.len() as u64;
        }
        self.end(pieces, bytes)
    }

    pub(crate) fn end(self, records: u64, bytes: u64) -> Result<Read> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let cpu = cpu_time("self")?.saturating_sub(self.cpu);
        let growth = Memory::read()?.peak.saturating_sub(self.before);
        Ok(Read { records, bytes, seconds, cpu, growth })
    }
}

/// Runs a CLI whose output is discarded.
pub(crate) async fn command_line(mut command: Command) -> Result<Read> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to run {:?}", command.get_program()))?;
        let pid = Pid::from_child(&child);
        // The exited process is not reaped yet, so that its CPU time can be read.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = cpu_time(&pid.as_raw_nonzero().to_string())?;
        let status = child.wait()?;
        ensure!(status.success(), "{:?}: {status}", command.get_program());
        Ok(Read { seconds, cpu, ..Read::default() })
    })
    .await?
}

/// Returns the median of the durations.
pub(crate) fn time(reads: &[Read]) -> f64 {
    median(&reads.iter().map(|read| read.seconds).collect::<Vec<_>>())
}

/// Prints a row per reader. The memory of CLIs is unknown.
pub(crate) fn print(title: &str, bytes: u64, readers: &[(&str, &[Read])]) {
    let mut table =
        Table::new(&["", "median", "per second", "CPU of the client", "memory growth at most"]);
    for (name, reads) in readers {
        let cpus: Vec<f64> = reads.iter().map(|read| read.cpu.as_secs_f64()).collect();
        let growth = reads.iter().map(|read| read.growth).max().unwrap_or(0);
        let is_ours = reads.iter().any(|read| read.bytes > 0);
        table.row([
            (*name).to_owned(),
            seconds(time(reads)),
            mib((bytes as f64 / time(reads)) as u64),
            seconds(median(&cpus)),
            if is_ours { mib(growth) } else { "-".to_owned() },
        ]);
    }
    table.print(title);
}
