//! Reading of a large log file.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use runtime_core::{ContainerId, LogOptions, Runtime};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::engine::{self, Engine};
use crate::measure::{cpu_time, mib};
use crate::part::{Running, report};
use crate::reading::{self, Read, Reading, time};

pub(super) async fn compare(engine: &Engine, size: u64, line: usize, rounds: usize) -> Result<()> {
    let runtime = engine.ours().await?;
    let container = runtime.create_container(&engine.spec("echo done")).await?;
    container.start().await?;
    ensure!(container.wait().await?.success(), "the container failed");
    let directories: Vec<_> = std::fs::read_dir(engine::log_dir()?.join(runtime.scope().as_str()))?
        .collect::<Result<_, _>>()?;
    ensure!(directories.len() == 1, "{} log directories for one container", directories.len());
    let path = directories[0].path().join("container.log");
    println!("\nwriting {} of log file in lines of {line} bytes ...", mib(size));
    let (lines, size) = write(&path, size, line)?;

    let (mut ours, mut plain, mut wc) = (vec![], vec![], vec![]);
    let text = path.to_string_lossy().into_owned();
    for _ in 0..rounds {
        let id = container.id().as_str();
        ours.push(Running::start(["cri", "read-log", id])?.figure::<Read>().await?);
        plain.push(Running::start(["cri", "read-file", &text])?.figure::<Read>().await?);
        wc.push(word_count(&path, lines)?);
    }
    for read in &ours {
        ensure!(read.records == lines, "{} of {lines} records were read", read.records);
        ensure!(read.bytes == lines * line as u64, "{} bytes of text", read.bytes);
    }
    reading::print(
        &format!(
            "reading {} of CRI log file from the cache, {lines} records, {rounds} rounds",
            mib(size)
        ),
        size,
        &[("ours, as records", &ours), ("plain read of the file", &plain), ("wc -l", &wc)],
    );
    println!(
        "  ours to wc -l {:.2}, to a plain read {:.2}",
        time(&ours) / time(&wc),
        time(&ours) / time(&plain)
    );
    container.remove().await?;
    Ok(())
}

/// Writes lines in containerd's format, each with its own time.
fn write(path: &Path, size: u64, line: usize) -> Result<(u64, u64)> {
    let text = "x".repeat(line.max(2) - 1);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let (mut lines, mut written) = (0_u64, 0_u64);
    while written < size {
        let (second, nano) = (lines / 100_000 % 60, lines % 100_000 * 10_000);
        let minute = lines / 6_000_000 % 60;
        let line = format!("2026-11-23T16:{minute:02}:{second:02}.{nano:09}Z stdout F {text}\n");
        file.write_all(line.as_bytes())?;
        (lines, written) = (lines + 1, written + line.len() as u64);
    }
    file.flush()?;
    Ok((lines, written))
}

fn word_count(path: &Path, lines: u64) -> Result<Read> {
    let begun = Instant::now();
    let mut child =
        Command::new("wc").arg("-l").arg(path).stdout(Stdio::piped()).spawn().context("wc")?;
    let pid = Pid::from_child(&child);
    // The exited process is not reaped yet, so that its CPU time can be read.
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_time(&pid.as_raw_nonzero().to_string())?;
    let mut printed = String::new();
    child.stdout.take().context("wc has no stdout")?.read_to_string(&mut printed)?;
    ensure!(child.wait()?.success(), "wc failed");
    ensure!(printed.split_whitespace().next() == Some(&lines.to_string()), "wc printed {printed}");
    Ok(Read { seconds, cpu, ..Read::default() })
}

/// Runs in a separate process.
pub(super) async fn read_log(container: &str) -> Result<()> {
    let container = engine::ours(true).await?.container(&ContainerId::new(container)).await?;
    // In a task, like in larger programs, because the main task is not on a worker thread.
    let read = tokio::spawn(async move {
        let reading = Reading::begin()?;
        reading.of(container.logs(LogOptions::default()).await?).await
    });
    report(&read.await??)
}

/// Runs in a separate process.
pub(super) fn read_file(path: &Path) -> Result<()> {
    let reading = Reading::begin()?;
    let mut file = File::open(path)?;
    let mut block = vec![0; 512 << 10];
    let mut bytes = 0;
    loop {
        match file.read(&mut block)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    report(&reading.end(0, bytes)?)
}
