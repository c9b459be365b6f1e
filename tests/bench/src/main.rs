//! Cost of this library, compared with bare clients, CLIs and plain reads.
//!
//! The bench uses the engine and the registry of the environment that `cargo xtask bench` provides.
//! Each measurement runs in a separate process, so that measurements do not affect each other.

mod command;
mod common;
mod cri;
mod engine;
mod exec;
mod fleet;
mod k8s;
mod lifecycle;
mod logs;
mod measure;
mod pairs;
mod part;
mod proxy;
mod reading;
mod sessions;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::engine::Engine;
use crate::part::Part;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs all or some measurements, and prints tables
    Docker(Sizes),
    /// Same for the CRI
    Cri(cri::Sizes),
    /// Same for Kubernetes
    K8s(k8s::Sizes),
    /// Runs one measurement; started by the other commands
    #[command(hide = true, subcommand)]
    Part(Part),
}

/// Sizes of the measurements
#[derive(Debug, Clone, clap::Args)]
struct Sizes {
    /// Runs only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Runs small measurements, as a test of the bench
    #[arg(long)]
    quick: bool,
    /// Pairs of container lifecycles [default: 60, quick: 5]
    #[arg(long)]
    pairs: Option<usize>,
    /// MiB of log [default: 1024, quick: 32]
    #[arg(long)]
    log_mib: Option<u64>,
    /// Bytes of a line with its end
    #[arg(long, default_value_t = 128)]
    line: u64,
    /// Rounds of reading the log [default: 3, quick: 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Concurrent containers [default: 200, quick: 10]
    #[arg(long)]
    containers: Option<usize>,
    /// Concurrent followers [default: 500, quick: 20]
    #[arg(long)]
    followers: Option<usize>,
    /// MiB through an exec [default: 1024, quick: 32]
    #[arg(long)]
    exec_mib: Option<u64>,
    /// Containers in the lists of the CLIs [default: 500, quick: 10]
    #[arg(long)]
    listed: Option<usize>,
}

impl Sizes {
    fn pairs(&self) -> usize {
        self.pairs.unwrap_or(if self.quick { 5 } else { 60 })
    }

    fn log_bytes(&self) -> u64 {
        self.log_mib.unwrap_or(if self.quick { 32 } else { 1024 }) << 20
    }

    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn containers(&self) -> usize {
        self.containers.unwrap_or(if self.quick { 10 } else { 200 })
    }

    fn followers(&self) -> usize {
        self.followers.unwrap_or(if self.quick { 20 } else { 500 })
    }

    fn exec_bytes(&self) -> u64 {
        self.exec_mib.unwrap_or(if self.quick { 32 } else { 1024 }) << 20
    }

    fn listed(&self) -> usize {
        self.listed.unwrap_or(if self.quick { 10 } else { 500 })
    }

    fn includes(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// The lifecycle of a container that exits immediately
    Lifecycle,
    /// Reading a large log
    Logs,
    /// Many containers, and many followers of their logs
    Fleet,
    /// Commands in a container
    Exec,
    /// The `runtime` command compared with `docker`
    Command,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Docker(sizes) => runtime().and_then(|runtime| runtime.block_on(docker(&sizes))),
        Command::Cri(sizes) => runtime().and_then(|runtime| runtime.block_on(cri::run(&sizes))),
        Command::K8s(sizes) => runtime().and_then(|runtime| runtime.block_on(k8s::run(&sizes))),
        Command::Part(part) => runtime().and_then(|runtime| runtime.block_on(part.run())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Creates the executor of all measurements: tokio's default.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

async fn docker(sizes: &Sizes) -> Result<()> {
    let engine = Engine::from_env()?;
    engine.prepare().await?;
    common::heading(&engine.ours().await?).await?;
    if sizes.includes(Subject::Lifecycle) {
        lifecycle::compare(&engine, sizes.pairs()).await?;
    }
    if sizes.includes(Subject::Logs) {
        logs::compare(&engine, sizes.log_bytes(), sizes.line, sizes.rounds()).await?;
    }
    if sizes.includes(Subject::Fleet) {
        fleet::compare(&engine, sizes.containers(), sizes.followers()).await?;
    }
    if sizes.includes(Subject::Exec) {
        exec::compare(&engine, sizes.pairs(), sizes.exec_bytes(), sizes.rounds()).await?;
    }
    if sizes.includes(Subject::Command) {
        command::compare(&engine, sizes.listed(), sizes.pairs().min(20)).await?;
    }
    Ok(())
}
