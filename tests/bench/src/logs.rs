//! Reading of a large log.

use anyhow::{Result, ensure};
use bollard::query_parameters::LogsOptions;
use clap::ValueEnum;
use futures_util::StreamExt;
use runtime_core::{Container, ContainerId, LogOptions, Runtime};

use crate::engine::{self, Engine};
use crate::measure::mib;
use crate::part::{Running, report};
use crate::reading::{self, Read, Reading, time};

pub(crate) async fn compare(engine: &Engine, bytes: u64, line: u64, rounds: usize) -> Result<()> {
    let runtime = engine.ours().await?;
    // Repeats lines of `line` bytes with the line end.
    let width = line.max(2) - 1;
    let script = format!("yes $(head -c {width} /dev/zero | tr '\\0' x) | head -c {bytes}",);
    println!("\nwriting {} of log in lines of {line} bytes ...", mib(bytes));
    let container = runtime.create_container(&engine.spec(&script)).await?;
    container.start().await?;
    ensure!(container.wait().await?.success(), "failed to write the log");
    let id = container.id().as_str();

    let [mut ours, mut raw, mut bare, mut docker, mut stamped] = [const { Vec::new() }; 5];
    for _ in 0..rounds {
        let read = |way: &'static str| async move {
            Running::start(["read-log", way, &engine.host, id])?.figure::<Read>().await
        };
        docker.push(command_line(engine, id, &[]).await?);
        raw.push(read("raw").await?);
        stamped.push(command_line(engine, id, &["--timestamps"]).await?);
        ours.push(read("records").await?);
        bare.push(read("bare").await?);
    }
    for read in ours.iter().chain(&raw).chain(&bare) {
        ensure!(read.bytes == bytes, "{} of {bytes} bytes were read", read.bytes);
    }
    let records = ours.first().map_or(0, |read| read.records);
    reading::print(
        &format!("reading {} of log, {records} records, {rounds} rounds", mib(bytes)),
        bytes,
        &[
            ("ours, raw", &raw),
            ("docker logs", &docker),
            ("ours, as records", &ours),
            ("docker logs --timestamps", &stamped),
            ("bare bollard, with times", &bare),
        ],
    );
    println!(
        "  ours, raw, to docker logs {:.3} (at most 1); as records to docker logs --timestamps \
         {:.3} (at most 1), to docker logs {:.3}; the command is {}",
        time(&raw) / time(&docker),
        time(&ours) / time(&stamped),
        time(&ours) / time(&docker),
        command_version().await?
    );
    container.remove().await?;
    Ok(())
}

async fn command_version() -> Result<String> {
    let output = tokio::process::Command::new("docker").arg("--version").output().await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `docker logs ID >/dev/null 2>&1`.
async fn command_line(engine: &Engine, id: &str, more: &[&str]) -> Result<Read> {
    let mut command = std::process::Command::new("docker");
    command.args(["--host", &engine.host, "logs"]).args(more).arg(id);
    reading::command_line(command).await
}

/// Reader of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    Records,
    Raw,
    /// Bare bollard.
    Bare,
}

/// Runs in a separate process.
pub(crate) async fn read(way: Way, host: &str, container: &str) -> Result<()> {
    // In a task, like in larger programs, because the main task is not on a worker thread.
    let (host, container) = (host.to_owned(), container.to_owned());
    report(&tokio::spawn(async move { read_all(way, &host, &container).await }).await??)
}

async fn read_all(way: Way, host: &str, container: &str) -> Result<Read> {
    if way != Way::Bare {
        let runtime = engine::ours(host).await?;
        let container: std::sync::Arc<dyn Container> =
            runtime.container(&ContainerId::new(container)).await?;
        let reading = Reading::begin()?;
        return match way {
            Way::Raw => reading.of_raw(container.raw_logs().await?).await,
            _ => reading.of(container.logs(LogOptions::default()).await?).await,
        };
    }
    let docker = engine::bare(host)?;
    docker.version().await?;
    let reading = Reading::begin()?;
    let (mut records, mut bytes) = (0, 0);
    let options =
        LogsOptions { stdout: true, stderr: true, timestamps: true, ..LogsOptions::default() };
    let mut log = docker.logs(container, Some(options));
    while let Some(line) = log.next().await {
        records += 1;
        let line = line?.into_bytes();
        // bollard does not remove the timestamp.
        bytes += (line.len() - line.iter().position(|byte| *byte == b' ').unwrap_or(0) - 1) as u64;
    }
    reading.end(records, bytes)
}
