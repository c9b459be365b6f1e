//! Thousands of containers of one scope: list, watch and wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use kube::api::WatchEvent;
use runtime_core::{ContainerStatus, EventKind, EventsOptions, ListOptions, Runtime};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::engine::{Engine, NodeKind};
use crate::common::SCOPE;
use crate::measure::{Memory, Table, cpu_time, mib, seconds};
use crate::part::{Running, report};

/// Duration of the idle phase.
const IDLE: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    requests: u64,
    seconds: f64,
    cpu: Duration,
    /// Peak memory in bytes.
    memory: u64,
    /// Number of events that the library returned.
    events: u64,
}

pub(super) async fn measure(engine: &Engine, counts: &[usize]) -> Result<()> {
    let mut table = Table::new(&[
        "",
        "requests",
        "lines of the watch",
        "events returned",
        "time",
        "CPU of the client",
        "memory at most",
    ]);
    for &count in counts {
        println!("\nstarting {count} containers on hollow nodes ...");
        let begun = Instant::now();
        start(engine, count).await?;
        println!("  started in {}", seconds(begun.elapsed().as_secs_f64()));
        let measured = one(engine, count).await;
        engine.clear().await?;
        for (what, figures, lines) in measured? {
            table.row([
                format!("{count}: {what}"),
                figures.requests.to_string(),
                lines.map_or_else(|| "-".to_owned(), |lines| lines.to_string()),
                figures.events.to_string(),
                seconds(figures.seconds),
                seconds(figures.cpu.as_secs_f64()),
                mib(figures.memory),
            ]);
        }
    }
    table.print("all containers of one scope, on hollow nodes");
    Ok(())
}

async fn start(engine: &Engine, count: usize) -> Result<()> {
    let runtime = engine.ours(NodeKind::Hollow).await?;
    let (runtime, spec) = (&runtime, &engine.spec("sleep 86400"));
    let starts = (0..count).map(|_| async move {
        let container = runtime.create_container(spec).await?;
        container.start().await?;
        Ok::<_, anyhow::Error>(())
    });
    stream::iter(starts.collect::<Vec<_>>()).buffer_unordered(48).try_collect::<()>().await
}

async fn one(engine: &Engine, count: usize) -> Result<Vec<(&'static str, Figures, Option<u64>)>> {
    let admin = engine.admin().await?;
    let mut part = Running::start(["k8s", "scale", &count.to_string()])?;
    let listed: Figures = part.figure().await?;
    let idle: Figures = part.figure().await?;
    // A second watch counts the events that the server sends to the library.
    let mut watch = admin.watch(SCOPE).await?;
    let lines = tokio::spawn(async move {
        let (mut lines, mut left) = (0, count);
        while let Some(event) = watch.next().await {
            lines += 1;
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event? else { continue };
            let state = &pod["status"]["containerStatuses"][0]["state"];
            if pod["metadata"]["deletionTimestamp"].is_null() && state["terminated"].is_object() {
                left = left.saturating_sub(1);
            }
            if left == 0 {
                break;
            }
        }
        Ok::<u64, anyhow::Error>(lines)
    });
    let names = admin.names(SCOPE).await?;
    ensure!(names.len() == count, "{} pods are listed", names.len());
    admin.end(&names).await?;
    let ended: Figures = part.figure().await?;
    let lines = tokio::time::timeout(Duration::from_secs(60), lines)
        .await
        .context("the second watch did not see all exits")???;
    Ok(vec![
        ("a list with info, the first question", listed, None),
        ("watched and waited for, 20 s in which nothing happens", idle, None),
        ("another client ends all, until the last wait returns", ended, Some(lines)),
    ])
}

/// Runs in a separate process.
pub(super) async fn watch(count: usize) -> Result<()> {
    let runtime = Engine::from_env()?.ours(NodeKind::Hollow).await?;
    let mut meter = Meter::begin(runtime.requests_sent())?;
    let listed = runtime.list_containers(ListOptions::default()).await?;
    let running = listed.iter().filter(|one| one.info.status == ContainerStatus::Running).count();
    ensure!(running == count, "{running} of {} listed containers run", listed.len());
    meter.report(runtime.requests_sent(), 0)?;

    let mut events = runtime.events(EventsOptions::default()).await?;
    let told = tokio::spawn(async move {
        let (mut told, mut exited) = (0, 0);
        while exited < count {
            let event = events.next().await.context("the events ended")??;
            told += 1;
            exited += usize::from(matches!(event.kind, EventKind::Exited(_)));
        }
        Ok::<u64, anyhow::Error>(told)
    });
    let mut waits = JoinSet::new();
    for listed in listed {
        waits.spawn(async move { listed.container.wait().await });
    }
    // Waits until all waits are registered.
    tokio::time::sleep(Duration::from_secs(2)).await;
    meter.again(runtime.requests_sent())?;
    tokio::time::sleep(IDLE).await;
    ensure!(waits.try_join_next().is_none(), "a wait has returned");
    meter.report(runtime.requests_sent(), 0)?;

    while let Some(exit) = waits.join_next().await {
        exit??;
    }
    let told = told.await??;
    meter.report(runtime.requests_sent(), told)
}

struct Meter {
    requests: u64,
    begun: Instant,
    cpu: Duration,
}

impl Meter {
    fn begin(requests: u64) -> Result<Self> {
        Ok(Self { requests, begun: Instant::now(), cpu: cpu_time("self")? })
    }

    fn again(&mut self, requests: u64) -> Result<()> {
        *self = Self::begin(requests)?;
        Ok(())
    }

    fn report(&mut self, requests: u64, events: u64) -> Result<()> {
        report(&Figures {
            requests: requests - self.requests,
            seconds: self.begun.elapsed().as_secs_f64(),
            cpu: cpu_time("self")?.saturating_sub(self.cpu),
            memory: Memory::read()?.peak,
            events,
        })?;
        self.again(requests)
    }
}
