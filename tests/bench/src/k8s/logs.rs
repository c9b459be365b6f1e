//! Reading a large log.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use runtime_core::{Container, ContainerId, LogOptions, Runtime};
use test_engines::Cluster;

use super::engine::{Engine, Place};
use crate::common::SCOPE;
use crate::measure::mib;
use crate::part::{Running, say};
use crate::reading::{self, Read, Reading, time};

/// The kubelet gives the newest file only, and begins one every 10 MiB unless told otherwise.
const ONE_FILE: &str = "4Gi";
const DEFAULT: &str = "10Mi";

pub(super) async fn compare(engine: &Engine, size: u64, line: usize, rounds: usize) -> Result<()> {
    let rotate = |at: &'static str| {
        engine.on_cluster(move |cluster: &Cluster| {
            cluster.set_kubelet("containerLogMaxSize", at.into())
        })
    };
    rotate(ONE_FILE).await?;
    let measured = measure(engine, size, line, rounds).await;
    engine.clear().await?;
    rotate(DEFAULT).await?;
    measured
}

async fn measure(engine: &Engine, size: u64, line: usize, rounds: usize) -> Result<()> {
    let runtime = engine.ours(Place::Real).await?;
    // `line` bytes with the line end, again and again.
    let width = line.max(2) - 1;
    let script = format!("yes $(head -c {width} /dev/zero | tr '\\0' x) | head -c {size}");
    println!("\nwriting {} of log in lines of {line} bytes ...", mib(size));
    let container = runtime.create_container(&engine.spec(&script)).await?;
    container.start().await?;
    let exit = container.wait().await?;
    ensure!(exit.success(), "the log could not be written: {exit}");
    let pod = engine.bare().await?.names(SCOPE).await?.pop().context("no pod")?;

    let id = container.id().as_str();
    let [mut ours, mut raw, mut plain, mut stamped] = [const { Vec::<Read>::new() }; 4];
    for round in 0..rounds {
        for turn in 0..4 {
            // Who comes first has an advantage, or the contrary.
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

/// In a process of its own.
pub(super) async fn read_log(container: String, raw: bool) -> Result<()> {
    // On a task, as a program of some size does: the main one is on no worker thread.
    let read = tokio::spawn(async move {
        let runtime = Engine::from_env()?.ours(Place::Real).await?;
        // The connection counts for kubectl too, but finding the pod by its id is not its work.
        let container: std::sync::Arc<dyn Container> =
            runtime.container(&ContainerId::new(container)).await?;
        let reading = Reading::begin()?;
        if raw {
            return reading.of_raw(container.raw_logs().await?).await;
        }
        reading.of(container.logs(LogOptions::default()).await?).await
    });
    say(&read.await??)
}
