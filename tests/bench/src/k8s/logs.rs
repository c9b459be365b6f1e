//! Reading of a large log.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use runtime_core::{Container, ContainerId, LogOptions, Runtime};
use test_engines::Cluster;

use super::engine::{Engine, NodeKind};
use crate::common::SCOPE;
use crate::measure::mib;
use crate::part::{Running, report};
use crate::reading::{self, Read, Reading, time};

/// The kubelet returns only the newest file, and rotates every 10 MiB by default.
const ONE_FILE: &str = "4Gi";
const ROTATION_DEFAULT: &str = "10Mi";

pub(super) async fn compare(engine: &Engine, size: u64, line: usize, rounds: usize) -> Result<()> {
    let rotate = |at: &'static str| {
        engine.on_cluster(move |cluster: &Cluster| {
            cluster.set_kubelet("containerLogMaxSize", at.into())
        })
    };
    rotate(ONE_FILE).await?;
    let measured = measure(engine, size, line, rounds).await;
    engine.clear().await?;
    rotate(ROTATION_DEFAULT).await?;
    measured
}

async fn measure(engine: &Engine, size: u64, line: usize, rounds: usize) -> Result<()> {
    let runtime = engine.ours(NodeKind::Real).await?;
    // Repeats lines of `line` bytes with the line end.
    let width = line.max(2) - 1;
    let script = format!("yes $(head -c {width} /dev/zero | tr '\\0' x) | head -c {size}");
    println!("\nwriting {} of log in lines of {line} bytes ...", mib(size));
    let container = runtime.create_container(&engine.spec(&script)).await?;
    container.start().await?;
    let exit = container.wait().await?;
    ensure!(exit.success(), "failed to write the log: {exit}");
    let pod = engine.bare().await?.names(SCOPE).await?.pop().context("no pod")?;

    let id = container.id().as_str();
    let [mut ours, mut raw, mut plain, mut stamped] = [const { Vec::<Read>::new() }; 4];
    for round in 0..rounds {
        for turn in 0..4 {
            // The order changes, because it affects the results.
            match (round + turn) % 4 {
                0 => plain.push(kubectl(engine, &pod, &[]).await?),
                1 => {
                    raw.push(Running::start(["k8s", "read-log", id, "--raw"])?.figure().await?);
                }
                2 => stamped.push(kubectl(engine, &pod, &["--timestamps"]).await?),
                _ => ours.push(Running::start(["k8s", "read-log", id])?.figure().await?),
            }
        }
    }
    for read in ours.iter().chain(&raw) {
        ensure!(read.bytes == size, "{} of {size} bytes were read", read.bytes);
    }
    let records = ours.first().map_or(0, |read| read.records);
    reading::print(
        &format!("reading {} of log, {records} records, {rounds} rounds", mib(size)),
        size,
        &[
            ("ours, raw", &raw),
            ("kubectl logs", &plain),
            ("ours, as records", &ours),
            ("kubectl logs --timestamps", &stamped),
        ],
    );
    println!(
        "  ours, raw, to kubectl logs {:.3} (at most 1); as records to kubectl logs --timestamps \
         {:.3} (at most 1), to kubectl logs {:.3}",
        time(&raw) / time(&plain),
        time(&ours) / time(&stamped),
        time(&ours) / time(&plain)
    );
    Ok(())
}

async fn kubectl(engine: &Engine, pod: &str, more: &[&str]) -> Result<Read> {
    let mut command = Command::new(&engine.kubectl);
    command.arg("--kubeconfig").arg(&engine.kubeconfig);
    command.args(["--namespace", &engine.namespace, "logs", pod]).args(more);
    reading::command_line(command).await
}

/// Runs in a separate process.
pub(super) async fn read_log(container: String, raw: bool) -> Result<()> {
    // In a task, like in larger programs, because the main task is not on a worker thread.
    let read = tokio::spawn(async move {
        let runtime = Engine::from_env()?.ours(NodeKind::Real).await?;
        // The connect is included in kubectl's time, but finding the pod by its id is not.
        let container: std::sync::Arc<dyn Container> =
            runtime.container(&ContainerId::new(container)).await?;
        let reading = Reading::begin()?;
        if raw {
            return reading.of_raw(container.raw_logs().await?).await;
        }
        reading.of(container.logs(LogOptions::default()).await?).await
    });
    report(&read.await??)
}
