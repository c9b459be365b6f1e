//! Reading a large log file.

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
use crate::part::{Running, say};
use crate::reading::{self, Read, Reading, time};

pub(super) async fn compare(engine: &Engine, size: u64, line: usize, rounds: usize) -> Result<()> {
    let runtime = engine.ours().await?;
    let container = runtime.create_container(&engine.spec("echo done")).await?;
    container.start().await?;
    ensure!(container.wait().await?.success(), "the container has failed");
    let folders: Vec<_> = std::fs::read_dir(engine::log_dir()?.join(runtime.scope().as_str()))?
        .collect::<Result<_, _>>()?;
    ensure!(folders.len() == 1, "{} log folders, and one container", folders.len());
    let path = folders[0].path().join("container.log");
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

/// Lines as containerd writes them, each with a time of its own.
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
    // It is left as it is when it has ended, so that its CPU time can be read.
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_time(&pid.as_raw_nonzero().to_string())?;
    let mut said = String::new();
    child.stdout.take().context("wc has no output")?.read_to_string(&mut said)?;
    ensure!(child.wait()?.success(), "wc has failed");
    ensure!(said.split_whitespace().next() == Some(&lines.to_string()), "wc says {said}");
    Ok(Read { seconds, cpu, ..Read::default() })
}

/// In a process of its own.
pub(super) async fn read_log(container: &str) -> Result<()> {
    let container = engine::ours(true).await?.container(&ContainerId::new(container)).await?;
    // On a task, as a program of some size does: the main one is on no worker thread.
    let read = tokio::spawn(async move {
        let reading = Reading::begin()?;
        reading.of(container.logs(LogOptions::default()).await?).await
    });
    say(&read.await??)
}

/// In a process of its own.
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
    say(&reading.end(0, bytes)?)
}
