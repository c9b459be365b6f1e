//! What this library costs, side by side with bare clients, command lines and plain reads.
//!
//! It runs on the engine and the registry of the environment, as `cargo xtask bench` sets them. Each figure is taken in a process of its own, so that one does not disturb the other.

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
    /// Measures everything, or some of it, and prints tables
    Docker(Sizes),
    /// The same for the CRI
    Cri(cri::Sizes),
    /// The same for Kubernetes
    K8s(k8s::Sizes),
    /// Measures one thing; `docker` starts these
    #[command(hide = true, subcommand)]
    Part(Part),
}

/// How much of each
#[derive(Debug, Clone, clap::Args)]
struct Sizes {
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Little of everything, to see that it works
    #[arg(long)]
    quick: bool,
    /// Pairs of lives of a container [default: 60, quick: 5]
    #[arg(long)]
    pairs: Option<usize>,
    /// MiB of log [default: 1024, quick: 32]
    #[arg(long)]
    log_mib: Option<u64>,
    /// Bytes of a line of it, with its end
    #[arg(long, default_value_t = 128)]
    line: u64,
    /// Rounds of reading it [default: 3, quick: 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Containers at once [default: 200, quick: 10]
    #[arg(long)]
    containers: Option<usize>,
    /// Followers at once [default: 500, quick: 20]
    #[arg(long)]
    followers: Option<usize>,
    /// MiB through an exec [default: 1024, quick: 32]
    #[arg(long)]
    exec_mib: Option<u64>,
    /// Containers that are listed by the commands [default: 500, quick: 10]
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

    fn wants(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// The life of a container that exits at once
    Lifecycle,
    /// Reading a large log
    Logs,
    /// Many containers, and many followers of their logs
    Fleet,
    /// Commands in a container
    Exec,
    /// The command `runtime` beside `docker`
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

/// The same for all: what tokio gives by default.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

async fn docker(sizes: &Sizes) -> Result<()> {
    let engine = Engine::from_env()?;
    engine.prepare().await?;
    common::heading(&engine.ours().await?).await?;
    if sizes.wants(Subject::Lifecycle) {
        lifecycle::compare(&engine, sizes.pairs()).await?;
    }
    if sizes.wants(Subject::Logs) {
        logs::compare(&engine, sizes.log_bytes(), sizes.line, sizes.rounds()).await?;
    }
    if sizes.wants(Subject::Fleet) {
        fleet::compare(&engine, sizes.containers(), sizes.followers()).await?;
    }
    if sizes.wants(Subject::Exec) {
        exec::compare(&engine, sizes.pairs(), sizes.exec_bytes(), sizes.rounds()).await?;
    }
    if sizes.wants(Subject::Command) {
        command::compare(&engine, sizes.listed(), sizes.pairs().min(20)).await?;
    }
    Ok(())
}
