//! Bench of the CRI backend, compared with the bare generated client and plain reads.

mod bare;
mod engine;
mod exec;
mod exits;
mod fleet;
mod lifecycle;
mod logs;
mod part;

use anyhow::Result;
use clap::ValueEnum;

use crate::common;
use engine::Engine;
pub(crate) use part::Part;

/// Sizes of the measurements
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Sizes {
    /// Runs only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Runs small measurements, as a test of the bench
    #[arg(long)]
    quick: bool,
    /// Pairs of container lifecycles [default: 60, quick: 5]
    #[arg(long)]
    pairs: Option<usize>,
    /// MiB of log file [default: 1024, quick: 32]
    #[arg(long)]
    log_mib: Option<u64>,
    /// Bytes of a line with its end
    #[arg(long, default_value_t = 128)]
    line: usize,
    /// Rounds of reading the log [default: 5, quick: 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Concurrent containers [default: 200, quick: 10]
    #[arg(long)]
    containers: Option<usize>,
    /// Seconds of idle waiting [default: 20, quick: 2]
    #[arg(long)]
    idle: Option<u64>,
}

impl Sizes {
    fn or(&self, given: Option<usize>, default: usize, quick: usize) -> usize {
        given.unwrap_or(if self.quick { quick } else { default })
    }

    fn includes(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// The lifecycle of a container that exits immediately
    Lifecycle,
    /// Reading a large log file
    Logs,
    /// Commands in a container
    Exec,
    /// Many containers: list, stats, wait, and the latency of exits
    Fleet,
}

pub(crate) async fn run(sizes: &Sizes) -> Result<()> {
    let engine = Engine::from_env()?;
    engine.prepare().await?;
    common::heading(&engine.ours().await?).await?;
    if sizes.includes(Subject::Lifecycle) {
        lifecycle::compare(&engine, sizes.or(sizes.pairs, 60, 5)).await?;
    }
    if sizes.includes(Subject::Logs) {
        let mib = sizes.log_mib.unwrap_or(if sizes.quick { 32 } else { 1024 });
        logs::compare(&engine, mib << 20, sizes.line, sizes.or(sizes.rounds, 5, 1)).await?;
    }
    if sizes.includes(Subject::Exec) {
        exec::compare(&engine, sizes.or(sizes.pairs, 60, 5)).await?;
    }
    if sizes.includes(Subject::Fleet) {
        let idle = sizes.idle.unwrap_or(if sizes.quick { 2 } else { 20 });
        fleet::compare(&engine, sizes.or(sizes.containers, 200, 10), idle).await?;
    }
    Ok(())
}
