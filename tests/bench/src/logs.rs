//! Reading a large log.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bollard::query_parameters::LogsOptions;
use futures_util::StreamExt;
use runtime_core::{Container, ContainerId, LogOptions, Runtime};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

use crate::engine::{self, Engine};
use crate::measure::{Memory, Table, cpu_time, median, mib, seconds};
use crate::part::{Running, say};

#[derive(Debug, Serialize, Deserialize)]
struct Read {
    records: u64,
    bytes: u64,
    seconds: f64,
    cpu: Duration,
    /// By how much the memory has grown at its highest.
    growth: u64,
}

pub(crate) async fn compare(engine: &Engine, bytes: u64, line: u64, rounds: usize) -> Result<()> {
    let runtime = engine.ours().await?;
    // `line` bytes with the line end, again and again.
    let width = line.max(2) - 1;
    let script = format!("yes $(head -c {width} /dev/zero | tr '\\0' x) | head -c {bytes}",);
    println!("\nwriting {} of log in lines of {line} bytes ...", mib(bytes));
    let container = runtime.create_container(&engine.spec(&script)).await?;
    container.start().await?;
    ensure!(container.wait().await?.success(), "the log could not be written");
    let id = container.id().as_str();

    let (mut ours, mut bare, mut docker, mut stamped) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let read = |bare: &'static [&'static str]| async move {
            Running::start([&["read-log", &engine.host, id], bare].concat())?.figure::<Read>().await
        };
        ours.push(read(&[]).await?);
        docker.push(command_line(engine, id, &[]).await?);
        bare.push(read(&["--bare"]).await?);
        stamped.push(command_line(engine, id, &["--timestamps"]).await?);
    }
    for read in ours.iter().chain(&bare) {
        ensure!(read.bytes == bytes, "{} of {bytes} bytes were read", read.bytes);
    }
    let mut table =
        Table::new(&["", "median", "per second", "CPU of the client", "memory growth at most"]);
    for (name, reads, shows_growth) in [
        ("ours", &ours, true),
        ("bare bollard", &bare, true),
        ("docker logs", &docker, false),
        ("docker logs --timestamps", &stamped, false),
    ] {
        let times: Vec<f64> = reads.iter().map(|read| read.seconds).collect();
        let cpus: Vec<f64> = reads.iter().map(|read| read.cpu.as_secs_f64()).collect();
        let growth = reads.iter().map(|read| read.growth).max().unwrap_or(0);
        table.row([
            name.to_owned(),
            seconds(median(&times)),
            mib((bytes as f64 / median(&times)) as u64),
            seconds(median(&cpus)),
            if shows_growth { mib(growth) } else { "-".to_owned() },
        ]);
    }
    let records = ours.first().map_or(0, |read| read.records);
    table.print(&format!("reading {} of log, {records} records, {rounds} rounds", mib(bytes)));
    let time = |reads: &[Read]| median(&reads.iter().map(|r| r.seconds).collect::<Vec<_>>());
    println!(
        "  ours to docker logs {:.3} (at most 1), to docker logs --timestamps {:.3}; the command \
         is {}",
        time(&ours) / time(&docker),
        time(&ours) / time(&stamped),
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
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        let mut child = command.spawn().context("running the docker command")?;
        let pid = Pid::from_child(&child);
        // It is left as it is when it has ended, so that its CPU time can be read.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = cpu_time(&pid.as_raw_nonzero().to_string())?;
        let status = child.wait()?;
        ensure!(status.success(), "docker logs: {status}");
        Ok(Read { records: 0, bytes: 0, seconds, cpu, growth: 0 })
    })
    .await?
}

/// In a process of its own.
pub(crate) async fn read(host: &str, container: &str, bare: bool) -> Result<()> {
    // On a task, as a program of some size does: the main one is on no worker thread.
    let (host, container) = (host.to_owned(), container.to_owned());
    say(&tokio::spawn(async move { read_all(&host, &container, bare).await }).await??)
}

async fn read_all(host: &str, container: &str, bare: bool) -> Result<Read> {
    let (mut records, mut bytes) = (0, 0);
    let (before, begun, cpu);
    if bare {
        let docker = engine::bare(host)?;
        docker.version().await?;
        (before, begun, cpu) = (start()?, Instant::now(), cpu_time("self")?);
        let options =
            LogsOptions { stdout: true, stderr: true, timestamps: true, ..LogsOptions::default() };
        let mut log = docker.logs(container, Some(options));
        while let Some(line) = log.next().await {
            records += 1;
            let line = line?.into_bytes();
            // bollard leaves the time where it is.
            bytes +=
                (line.len() - line.iter().position(|byte| *byte == b' ').unwrap_or(0) - 1) as u64;
        }
    } else {
        let runtime = engine::ours(host).await?;
        let container: std::sync::Arc<dyn Container> =
            runtime.container(&ContainerId::new(container)).await?;
        (before, begun, cpu) = (start()?, Instant::now(), cpu_time("self")?);
        let mut log = container.logs(LogOptions::default()).await?;
        while let Some(record) = log.next().await {
            records += 1;
            bytes += record?.bytes.len() as u64;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_time("self")?.saturating_sub(cpu);
    let growth = Memory::read()?.peak.saturating_sub(before);
    Ok(Read { records, bytes, seconds, cpu, growth })
}

fn start() -> Result<u64> {
    Memory::reset_peak()?;
    Ok(Memory::read()?.now)
}
