//! Many containers: list, stats, and idle waits.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use runtime_core::{ContainerId, ListOptions, Runtime};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::engine::{self, Engine};
use super::exits;
use crate::measure::{Table, cpu_time, seconds};
use crate::part::{Running, report};

#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    calls: u64,
    seconds: f64,
    cpu: Duration,
}

pub(super) async fn compare(engine: &Engine, count: usize, idle: u64) -> Result<()> {
    println!("\nstarting {count} containers ...");
    let started = engine.start_many(count, "echo ready; exec sleep 86400").await;
    let measured = match started {
        Ok(_) => measure(count, idle).await,
        Err(error) => Err(error),
    };
    engine.clear().await?;
    measured
}

async fn measure(count: usize, idle: u64) -> Result<()> {
    let text = count.to_string();
    let mut part = Running::start(["cri", "ask", &text])?;
    let mut table = Table::new(&["", "calls", "time", "CPU of the client"]);
    for what in ["a list with info", "stats, the first round", "stats, the second round"] {
        let figures: Figures = part.figure().await?;
        table.row(row(what, &figures));
    }
    table.print(&format!("{count} containers"));

    let mut table = Table::new(&["", "calls", "time", "CPU of the client"]);
    for waiters in [0, count] {
        let arguments = ["cri", "idle", &waiters.to_string(), &idle.to_string()].map(str::to_owned);
        let figures: Figures = Running::start(arguments)?.figure().await?;
        table.row(row(&format!("{waiters} waiters"), &figures));
    }
    table.print(&format!("{count} containers run and nothing happens"));
    exits::compare(count).await
}

fn row(name: &str, figures: &Figures) -> [String; 4] {
    [
        name.to_owned(),
        figures.calls.to_string(),
        seconds(figures.seconds),
        seconds(figures.cpu.as_secs_f64()),
    ]
}

/// Runs in a separate process.
pub(super) async fn ask(containers: usize) -> Result<()> {
    let runtime = engine::ours(true).await?;
    let mut ids: Vec<ContainerId> = Vec::new();
    for round in 0..3 {
        let (calls, begun, cpu) = (runtime.requests_sent(), Instant::now(), cpu_time("self")?);
        if round == 0 {
            let listed = runtime.list_containers(ListOptions::default()).await?;
            ids = listed.into_iter().map(|listed| listed.info.id).collect();
            ensure!(ids.len() == containers, "{} containers are listed", ids.len());
        } else {
            let stats = runtime.stats(&ids).await?;
            ensure!(stats.len() == ids.len(), "{} containers have stats", stats.len());
            let whole = |(_, stats): &(ContainerId, runtime_core::ContainerStats)| {
                stats.memory_bytes.is_some() && (round == 1 || stats.cpu_percent.is_some())
            };
            ensure!(stats.iter().all(whole), "some lack a value");
        }
        report(&Figures {
            calls: runtime.requests_sent() - calls,
            seconds: begun.elapsed().as_secs_f64(),
            cpu: cpu_time("self")?.saturating_sub(cpu),
        })?;
    }
    Ok(())
}

/// Runs in a separate process.
pub(super) async fn idle(waiters: usize, time: u64) -> Result<()> {
    let runtime = engine::ours(true).await?;
    let listed = runtime.list_containers(ListOptions::default()).await?;
    ensure!(listed.len() >= waiters, "{} containers are listed", listed.len());
    let mut waits = JoinSet::new();
    for listed in listed.into_iter().take(waiters) {
        waits.spawn(async move { listed.container.wait().await });
    }
    // Waits until the list interval has reached its maximum.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (calls, begun, cpu) = (runtime.requests_sent(), Instant::now(), cpu_time("self")?);
    tokio::time::sleep(Duration::from_secs(time)).await;
    let figures = Figures {
        calls: runtime.requests_sent() - calls,
        seconds: begun.elapsed().as_secs_f64(),
        cpu: cpu_time("self")?.saturating_sub(cpu),
    };
    ensure!(waits.try_join_next().is_none(), "a wait has returned");
    report(&figures)
}
