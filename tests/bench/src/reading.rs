//! How long it takes to read a log, and what it costs.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use runtime_core::{LogReader, RawLogs};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

use crate::measure::{Memory, Table, cpu_time, median, mib, seconds};

/// What one reading came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) records: u64,
    /// Of the lines' text.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu: Duration,
    /// By how much the memory has grown at its highest.
    pub(crate) growth: u64,
}

/// A reading that has begun.
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

/// A command line that reads to nowhere.
pub(crate) async fn command_line(mut command: Command) -> Result<Read> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("running {:?}", command.get_program()))?;
        let pid = Pid::from_child(&child);
        // It is left as it is when it has ended, so that its CPU time can be read.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = cpu_time(&pid.as_raw_nonzero().to_string())?;
        let status = child.wait()?;
        ensure!(status.success(), "{:?}: {status}", command.get_program());
        Ok(Read { seconds, cpu, ..Read::default() })
    })
    .await?
}

/// The median of the times.
pub(crate) fn time(reads: &[Read]) -> f64 {
    median(&reads.iter().map(|read| read.seconds).collect::<Vec<_>>())
}

/// A row for each reader of so many bytes. The memory of a command line is not known.
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
