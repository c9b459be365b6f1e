//! The `runtime` command compared with Docker's CLI.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use runtime_core::Runtime;
use tokio::process::Command;

use crate::common::SCOPE;
use crate::engine::Engine;
use crate::measure::{Table, median, mib, quantile, seconds};

pub(crate) async fn compare(engine: &Engine, containers: usize, rounds: usize) -> Result<()> {
    let program = program()?;
    let runtime = engine.ours().await?;
    println!("\nmaking {containers} containers ...");
    let spec = engine.spec("exit 0");
    stream::iter(0..containers)
        .map(|_| runtime.create_container(&spec))
        .buffer_unordered(4)
        .try_collect::<Vec<_>>()
        .await?;

    let ours = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["--backend", &engine.host, "--scope", SCOPE]).args(words);
        command
    };
    let docker = |words: &[&str]| {
        let mut command = Command::new("docker");
        command.args(["--host", &engine.host]).args(words);
        command
    };
    let mut table = Table::new(&["", "median", "quartiles"]);
    let mut ratios = Vec::new();
    for (name, lines, words) in [
        ("ps --all", Some(containers + 1), &["ps", "--all"][..]),
        ("--version", None, &["--version"]),
    ] {
        let (mut our_times, mut docker_times) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            our_times.push(time(ours(words), lines).await?);
            docker_times.push(time(docker(words), lines).await?);
        }
        for (who, times) in [("runtime", &our_times), ("docker", &docker_times)] {
            table.row([
                format!("{who} {name}"),
                seconds(median(times)),
                format!("{} to {}", seconds(quantile(times, 0.25)), seconds(quantile(times, 0.75))),
            ]);
        }
        ratios.push(format!("{name} {:.3}", median(&our_times) / median(&docker_times)));
    }
    table.print(&format!("the commands, {containers} containers, {rounds} rounds"));
    let size = |path: &PathBuf| Ok::<_, anyhow::Error>(std::fs::metadata(path)?.len());
    println!("  time of runtime to that of docker: {}", ratios.join(", "));
    println!("  runtime is {} large, with all backends and symbols", mib(size(&program)?));
    engine.clear().await
}

/// Returns the path of the CLI, which `cargo xtask bench` builds next to this program.
fn program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("runtime");
    ensure!(program.exists(), "`runtime` is not built: run `cargo xtask bench`");
    Ok(program)
}

/// Runs a command to its end; its output must have this number of lines.
async fn time(mut command: Command, lines: Option<usize>) -> Result<f64> {
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output().await.context("failed to run a command")?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    if let Some(lines) = lines {
        let printed = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        ensure!(printed == lines, "{printed} lines instead of {lines} of {command:?}");
    }
    Ok(seconds)
}
