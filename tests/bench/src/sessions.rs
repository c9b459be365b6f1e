//! Sessions in a container: latency and throughput.

use std::pin::pin;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use runtime_core::{Bytes, Container, ExecOptions, SessionMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::measure::{Memory, Table, median, mib, seconds};
use crate::pairs::Pairs;

/// Chunk size of writes.
const CHUNK_SIZE: usize = 64 << 10;

/// `exec` of the engine's own CLI, without the executed command.
pub(crate) struct CommandLine {
    /// The name in the table.
    pub(crate) name: &'static str,
    pub(crate) program: String,
    /// Arguments with stdin.
    pub(crate) arguments: Vec<String>,
}

/// Measures an exec of `true` with its exit code, with the library and another client.
pub(crate) async fn round_trips(
    container: &dyn Container,
    name: &str,
    bare: impl AsyncFn() -> Result<()>,
    pairs: usize,
) -> Result<()> {
    let ours = async |_| {
        let session = container.exec(ExecOptions::new(["true"])).await?;
        ensure!(session.control.wait().await?.code == 0, "true failed");
        Ok(())
    };
    let pairs = Pairs::run(pairs, ours, async |_| bare().await).await?;
    let once = || "1".to_owned();
    pairs.print_as("exec of `true` and its exit code", "execs", once(), (name, once()), "");
    Ok(())
}

/// Measures bytes out of a container and into it.
pub(crate) async fn throughput(
    container: &dyn Container,
    command: &CommandLine,
    bytes: u64,
    rounds: usize,
) -> Result<()> {
    let mut table = Table::new(&["", "median", "per second", "memory growth at most"]);
    let mut ratios = Vec::new();
    for out in [true, false] {
        let (mut ours, mut theirs, mut growth) = (Vec::new(), Vec::new(), 0);
        for _ in 0..rounds {
            Memory::reset_peak()?;
            let before = Memory::read()?.now;
            let begun = Instant::now();
            if out {
                read(container, bytes).await?;
            } else {
                write(container, bytes).await?;
            }
            ours.push(begun.elapsed().as_secs_f64());
            growth = growth.max(Memory::read()?.peak.saturating_sub(before));
            let begun = Instant::now();
            if out {
                command.read(bytes).await?;
            } else {
                command.write(bytes).await?;
            }
            theirs.push(begun.elapsed().as_secs_f64());
        }
        let way = if out { "out" } else { "in" };
        for (name, times, growth) in
            [("ours", &ours, mib(growth)), (command.name, &theirs, "-".to_owned())]
        {
            let time = median(times);
            table.row([
                format!("{way}, {name}"),
                seconds(time),
                mib((bytes as f64 / time) as u64),
                growth,
            ]);
        }
        ratios.push(format!("{way} {:.3}", median(&ours) / median(&theirs)));
    }
    table.print(&format!("{} through an exec, {rounds} rounds", mib(bytes)));
    println!("  time of ours to that of {}: {}", command.name, ratios.join(", "));
    Ok(())
}

fn zeros(bytes: u64) -> Vec<String> {
    ["head", "-c", &bytes.to_string(), "/dev/zero"].map(str::to_owned).into()
}

/// Prints the number of bytes on stdin.
const COUNT: [&str; 2] = ["wc", "-c"];

async fn read(container: &dyn Container, bytes: u64) -> Result<()> {
    let mut session = container.exec(ExecOptions::new(zeros(bytes))).await?;
    let mut count = 0;
    while let Some(piece) = session.stdout.next().await {
        count += piece?.len() as u64;
    }
    ensure!(count == bytes, "{count} of {bytes} bytes were read");
    ensure!(session.control.wait().await?.code == 0, "the command failed");
    Ok(())
}

async fn write(container: &dyn Container, bytes: u64) -> Result<()> {
    let options = ExecOptions::new(COUNT).mode(SessionMode::Stdin);
    let session = container.exec(options).await?;
    let mut stdin = session.stdin.context("the session has no stdin")?;
    let piece = Bytes::from(vec![0; CHUNK_SIZE]);
    let mut left = bytes;
    while left > 0 {
        let part = piece.slice(..(left as usize).min(CHUNK_SIZE));
        left -= part.len() as u64;
        stdin.write(part).await?;
    }
    stdin.close().await?;
    let mut printed = Vec::new();
    let mut stdout = pin!(session.stdout);
    while let Some(piece) = stdout.next().await {
        printed.extend_from_slice(&piece?);
    }
    check_count(&printed, bytes)?;
    ensure!(session.control.wait().await?.code == 0, "the command failed");
    Ok(())
}

fn check_count(printed: &[u8], bytes: u64) -> Result<()> {
    let printed = String::from_utf8_lossy(printed);
    ensure!(
        printed.trim() == bytes.to_string(),
        "{} of {bytes} bytes were written",
        printed.trim()
    );
    Ok(())
}

impl CommandLine {
    /// Runs one exec of `true`.
    pub(crate) async fn once(&self) -> Result<()> {
        let status = self.command(["true".to_owned()]).stdin(Stdio::null()).status().await?;
        ensure!(status.success(), "{}: {status}", self.name);
        Ok(())
    }

    fn command(&self, words: impl IntoIterator<Item = String>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(words).kill_on_drop(true);
        command.stderr(Stdio::inherit());
        command
    }

    /// The output is discarded, like that of the library.
    async fn read(&self, bytes: u64) -> Result<()> {
        let mut command = self.command(zeros(bytes));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut stdout = child.stdout.take().context("the command has no stdout")?;
        let (mut piece, mut count) = (vec![0; CHUNK_SIZE], 0);
        loop {
            match stdout.read(&mut piece).await? {
                0 => break,
                read => count += read as u64,
            }
        }
        ensure!(count == bytes, "{count} of {bytes} bytes were read with {}", self.name);
        ensure!(child.wait().await?.success(), "{} failed", self.name);
        Ok(())
    }

    async fn write(&self, bytes: u64) -> Result<()> {
        let mut command = self.command(COUNT.map(str::to_owned));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("the command has no stdin")?;
        let (piece, mut left) = (vec![0; CHUNK_SIZE], bytes);
        while left > 0 {
            let part = (left as usize).min(CHUNK_SIZE);
            left -= part as u64;
            stdin.write_all(&piece[..part]).await?;
        }
        drop(stdin);
        let output = child.wait_with_output().await?;
        check_count(&output.stdout, bytes)?;
        ensure!(output.status.success(), "{} failed", self.name);
        Ok(())
    }
}
