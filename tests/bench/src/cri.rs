//! The same for the CRI: side by side with the bare generated client, and with plain reads.

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

/// How much of each
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Sizes {
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Little of everything, to see that it works
    #[arg(long)]
    quick: bool,
    /// Pairs of lives of a container [default: 60, quick: 5]
    #[arg(long)]
    pairs: Option<usize>,
    /// MiB of log file [default: 1024, quick: 32]
    #[arg(long)]
    log_mib: Option<u64>,
    /// Bytes of a line as the container wrote it, with its end
    #[arg(long, default_value_t = 128)]
    line: usize,
    /// Rounds of reading it [default: 5, quick: 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Containers at once [default: 200, quick: 10]
    #[arg(long)]
    containers: Option<usize>,
    /// Seconds of waiting for nothing [default: 20, quick: 2]
    #[arg(long)]
    idle: Option<u64>,
}

impl Sizes {
    fn or(&self, given: Option<usize>, default: usize, quick: usize) -> usize {
        given.unwrap_or(if self.quick { quick } else { default })
    }

    fn wants(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// The life of a container that exits at once
    Lifecycle,
    /// Reading a large log file
    Logs,
    /// Commands in a container
    Exec,
    /// Many containers: listed, measured, waited for, and each exit noticed
    Fleet,
}

pub(crate) async fn run(sizes: &Sizes) -> Result<()> {
    let engine = Engine::from_env()?;
    engine.prepare().await?;
    common::heading(&engine.ours().await?).await?;
    if sizes.wants(Subject::Lifecycle) {
        lifecycle::compare(&engine, sizes.or(sizes.pairs, 60, 5)).await?;
    }
    if sizes.wants(Subject::Logs) {
        let mib = sizes.log_mib.unwrap_or(if sizes.quick { 32 } else { 1024 });
        logs::compare(&engine, mib << 20, sizes.line, sizes.or(sizes.rounds, 5, 1)).await?;
    }
    if sizes.wants(Subject::Exec) {
        exec::compare(&engine, sizes.or(sizes.pairs, 60, 5)).await?;
    }
    if sizes.wants(Subject::Fleet) {
        let idle = sizes.idle.unwrap_or(if sizes.quick { 2 } else { 20 });
        fleet::compare(&engine, sizes.or(sizes.containers, 200, 10), idle).await?;
    }
    Ok(())
}
