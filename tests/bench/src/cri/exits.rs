//! Latency from the exit time of a container, reported by the engine, to the return of `wait`.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use runtime_core::{ListOptions, Runtime, Signal};
use tokio::task::JoinSet;

use super::engine;
use crate::measure::{Table, quantile, seconds};
use crate::part::{Running, report};

/// Half of the containers exit for each variant.
pub(super) async fn compare(count: usize) -> Result<()> {
    let half = (count / 2).max(1).to_string();
    let mut table = Table::new(&["", "median", "99th percentile", "longest"]);
    for (name, more) in [("events may wake", None), ("without events", Some("--without-events"))] {
        let arguments = ["cri", "exits", &half].into_iter().chain(more);
        let times: Vec<f64> = Running::start(arguments)?.figure().await?;
        table.row([
            name.to_owned(),
            seconds(quantile(&times, 0.5)),
            seconds(quantile(&times, 0.99)),
            seconds(quantile(&times, 1.0)),
        ]);
    }
    table.print(&format!("from the exit to the return of wait, {half} containers each"));
    Ok(())
}

/// Runs in a separate process: waits for `count` running containers, and kills them one after
/// another.
pub(super) async fn measure(count: usize, events: bool) -> Result<()> {
    let runtime = engine::ours(events).await?;
    let mut listed = runtime.list_containers(ListOptions::default()).await?;
    listed.retain(|listed| listed.info.status == runtime_core::ContainerStatus::Running);
    ensure!(listed.len() >= count, "{} containers are running", listed.len());
    listed.truncate(count);
    let mut waits = JoinSet::new();
    for listed in &listed {
        let container = listed.container.clone();
        waits.spawn(async move {
            let exit = container.wait().await;
            (SystemTime::now(), exit)
        });
    }
    // Waits until the list interval has reached its maximum.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut times = Vec::with_capacity(count);
    for (number, listed) in listed.iter().enumerate() {
        listed.container.kill(Signal::KILL).await?;
        let (returned, exit) = waits.join_next().await.context("no wait is left")??;
        let ended = exit?.ended_at.context("the engine reports no exit time")?;
        times.push(returned.duration_since(ended)?.as_secs_f64());
        // Spread over the list interval by multiples of a prime.
        let pause = Duration::from_millis(number as u64 * 389 % 1000);
        tokio::time::sleep(pause).await;
    }
    report(&times)
}
