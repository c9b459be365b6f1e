//! Many containers: logs, list, stats and wait.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use bollard::query_parameters::{
    KillContainerOptions, ListContainersOptions, LogsOptions, StatsOptions, WaitContainerOptions,
};
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use runtime_core::{ContainerId, Follow, ListOptions, LogOptions, Runtime};
use serde::{Deserialize, Serialize};

use crate::engine::{self, Engine};
use crate::measure::{Memory, Table, cpu_time, kib, mib, seconds};
use crate::part::{ClientKind, Running, report};
use crate::proxy::Proxy;

#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    seconds: f64,
    cpu: Duration,
    /// Growth of the memory in bytes.
    growth: u64,
}

/// Resource usage of a part since its start.
struct Meter {
    begun: Instant,
    cpu: Duration,
    memory: u64,
}

impl Meter {
    fn start() -> Result<Self> {
        Memory::reset_peak()?;
        let memory = Memory::read()?.now;
        Ok(Self { begun: Instant::now(), cpu: cpu_time("self")?, memory })
    }

    fn read(&self) -> Result<Figures> {
        Ok(Figures {
            seconds: self.begun.elapsed().as_secs_f64(),
            cpu: cpu_time("self")?.saturating_sub(self.cpu),
            growth: Memory::read()?.peak.saturating_sub(self.memory),
        })
    }
}

pub(crate) async fn compare(engine: &Engine, count: usize, followers: usize) -> Result<()> {
    println!("\nstarting {count} containers ...");
    let ids = engine.start_many(count, "echo ready; exec sleep 86400").await?;
    let measured = measure(engine, &ids, followers).await;
    engine.clear().await?;
    measured
}

async fn measure(engine: &Engine, ids: &[String], followers: usize) -> Result<()> {
    let count = ids.len();
    let heading = ["", "requests", "time", "CPU of the client", "memory growth"];
    let ids = || ids.iter().map(String::as_str);

    let mut table = Table::new(&["", "requests", "time", "memory growth", "per follower"]);
    for who in ClientKind::BOTH {
        let followers = followers.to_string();
        let (figures, requests) =
            counted(engine, "follow", who, [followers.as_str()].into_iter().chain(ids())).await?;
        table.row([
            who.name().to_owned(),
            total(&requests),
            seconds(figures.seconds),
            mib(figures.growth),
            kib(figures.growth as f64 / followers.parse::<f64>()?),
        ]);
    }
    table.print(&format!(
        "{followers} followers of {count} containers, until each has its first record"
    ));

    for (part, title) in [
        ("list", "listing with info (bare: a list, and an inspect each)"),
        ("stats", "two rounds of stats (bare: each container's own two samples, all at once)"),
    ] {
        let mut table = Table::new(&heading);
        for who in ClientKind::BOTH {
            let more: Vec<&str> = if part == "list" { Vec::new() } else { ids().collect() };
            let (figures, requests) = counted(engine, part, who, more).await?;
            table.row(row(who, &figures, &requests));
        }
        table.print(&format!("{count} containers: {title}"));
    }
    wait_for_all(engine, &ids().collect::<Vec<_>>()).await
}

/// Both clients wait for the same containers, which are then killed at once.
async fn wait_for_all(engine: &Engine, ids: &[&str]) -> Result<()> {
    let mut running = Vec::new();
    for who in ClientKind::BOTH {
        let proxy = Proxy::open(&engine.host)?;
        let mut part = start(&proxy, "wait", who, ids.iter().copied())?;
        let () = part.figure().await?;
        running.push((who, proxy, part));
    }
    // Setup time of both clients, which is not observable, because a wait has no first response.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let docker = engine::bare(&engine.host)?;
    stream::iter(ids)
        .map(Ok::<_, anyhow::Error>)
        .try_for_each_concurrent(8, |id| {
            let options = KillContainerOptions { signal: "KILL".to_owned() };
            let docker = &docker;
            async move { Ok(docker.kill_container(id, Some(options)).await?) }
        })
        .await?;
    let killed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let mut table =
        Table::new(&["", "requests", "after the last kill", "CPU of the client", "memory growth"]);
    let mut kinds = Vec::new();
    for (who, proxy, mut part) in running {
        let (mut figures, ended): (Figures, f64) = part.figure().await?;
        figures.seconds = (ended - killed).max(0.0);
        let requests = proxy.take();
        kinds.push(format!("  requests of {}: {}", who.name(), by_kind(&requests)));
        table.row(row(who, &figures, &requests));
    }
    table.print(&format!("waiting for {} containers, which are killed", ids.len()));
    kinds.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn row(who: ClientKind, figures: &Figures, requests: &[String]) -> [String; 5] {
    [
        who.name().to_owned(),
        total(requests),
        seconds(figures.seconds),
        seconds(figures.cpu.as_secs_f64()),
        mib(figures.growth),
    ]
}

fn start<'a>(
    proxy: &Proxy,
    part: &'a str,
    who: ClientKind,
    more: impl IntoIterator<Item = &'a str>,
) -> Result<Running> {
    let (host, who) = (proxy.host(), if who == ClientKind::Ours { "ours" } else { "bare" });
    let first = [part, who, host.as_str()].map(str::to_owned);
    Running::start(first.into_iter().chain(more.into_iter().map(str::to_owned)))
}

/// Runs a part and counts its requests, except those of the connect.
async fn counted<'a>(
    engine: &Engine,
    part: &'a str,
    who: ClientKind,
    more: impl IntoIterator<Item = &'a str>,
) -> Result<(Figures, Vec<String>)> {
    let proxy = Proxy::open(&engine.host)?;
    let figures = start(&proxy, part, who, more)?.figure().await?;
    Ok((figures, proxy.take()))
}

/// Formats the number of requests. The library sends two requests for the engine's identity at
/// connect.
fn total(requests: &[String]) -> String {
    let connect = requests.iter().filter(|request| is_connect(request)).count();
    format!("{} + {connect}", requests.len() - connect)
}

fn is_connect(request: &str) -> bool {
    request.ends_with("/version") || request.ends_with("/info") || request.ends_with("/_ping")
}

fn by_kind(requests: &[String]) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for request in requests {
        *kinds.entry(request).or_default() += 1;
    }
    let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
    kinds.join(", ")
}

fn following() -> LogsOptions {
    LogsOptions {
        follow: true,
        stdout: true,
        stderr: true,
        timestamps: true,
        ..LogsOptions::default()
    }
}

pub(crate) async fn follow(
    who: ClientKind,
    host: &str,
    followers: usize,
    containers: &[String],
) -> Result<()> {
    let targets = containers.iter().cycle().take(followers);
    match who {
        ClientKind::Ours => {
            let runtime = engine::ours(host).await?;
            let ids = containers.iter().map(ContainerId::new);
            let handles = try_join_all(ids.map(|id| {
                let runtime = &runtime;
                async move { runtime.container(&id).await }
            }))
            .await?;
            let meter = Meter::start()?;
            let logs = try_join_all((0..followers).map(|number| {
                let container = &handles[number % handles.len()];
                async move {
                    let mut log = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
                    let first = log.next().await.transpose()?;
                    ensure!(first.is_some(), "a log ended");
                    Ok(log)
                }
            }))
            .await?;
            report(&meter.read()?)?;
            drop(logs);
        }
        ClientKind::Bare => {
            let docker = engine::bare(host)?;
            docker.version().await?;
            let meter = Meter::start()?;
            let logs = try_join_all(targets.map(|id| {
                let mut log = docker.logs(id, Some(following())).boxed();
                async move {
                    let first = log.next().await.transpose()?;
                    ensure!(first.is_some(), "a log ended");
                    Ok(log)
                }
            }))
            .await?;
            report(&meter.read()?)?;
            drop(logs);
        }
    }
    Ok(())
}

pub(crate) async fn list(who: ClientKind, host: &str) -> Result<()> {
    match who {
        ClientKind::Ours => {
            let runtime = engine::ours(host).await?;
            let meter = Meter::start()?;
            let listed = runtime.list_containers(ListOptions::default()).await?;
            ensure!(!listed.is_empty(), "there are no containers");
            report(&meter.read()?)
        }
        ClientKind::Bare => {
            let docker = engine::bare(host)?;
            docker.version().await?;
            let meter = Meter::start()?;
            let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
            let listed = docker.list_containers(Some(options)).await?;
            let mut infos = Vec::new();
            for id in listed.iter().filter_map(|summary| summary.id.as_deref()) {
                infos.push(docker.inspect_container(id, None).await?);
            }
            ensure!(!infos.is_empty(), "there are no containers");
            report(&meter.read()?)
        }
    }
}

pub(crate) async fn stats(who: ClientKind, host: &str, containers: &[String]) -> Result<()> {
    match who {
        ClientKind::Ours => {
            let runtime = engine::ours(host).await?;
            let ids: Vec<_> = containers.iter().map(ContainerId::new).collect();
            let meter = Meter::start()?;
            runtime.stats(&ids).await?;
            let second = runtime.stats(&ids).await?;
            let with_cpu = second.iter().filter(|(_, stats)| stats.cpu_percent.is_some()).count();
            ensure!(with_cpu == ids.len(), "{with_cpu} of {} have a CPU percentage", ids.len());
            report(&meter.read()?)
        }
        ClientKind::Bare => {
            let docker = engine::bare(host)?;
            docker.version().await?;
            let meter = Meter::start()?;
            let samples = try_join_all(containers.iter().map(|id| {
                let options = StatsOptions { stream: false, one_shot: false };
                let mut samples = docker.stats(id, Some(options)).boxed();
                async move { samples.next().await.transpose() }
            }))
            .await?;
            ensure!(samples.iter().all(Option::is_some), "a container has no stats");
            report(&meter.read()?)
        }
    }
}

pub(crate) async fn wait(who: ClientKind, host: &str, containers: &[String]) -> Result<()> {
    let now =
        || Ok::<_, anyhow::Error>(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64());
    match who {
        ClientKind::Ours => {
            let runtime = engine::ours(host).await?;
            // The handles are from one list, like after a restart of a program.
            let handles = runtime.list_containers(ListOptions::default()).await?;
            let meter = Meter::start()?;
            report(&())?;
            let exits = try_join_all(handles.iter().map(|listed| listed.container.wait())).await?;
            let ended = now()?;
            ensure!(exits.len() == containers.len(), "{} waits", exits.len());
            report(&(meter.read()?, ended))
        }
        ClientKind::Bare => {
            let docker = engine::bare(host)?;
            docker.version().await?;
            let meter = Meter::start()?;
            report(&())?;
            let exits = try_join_all(containers.iter().map(|id| {
                let options = WaitContainerOptions { condition: "not-running".to_owned() };
                let mut waits = docker.wait_container(id, Some(options)).boxed();
                // bollard returns an error for every exit code except 0.
                async move { Ok::<_, anyhow::Error>(waits.next().await.is_some()) }
            }))
            .await?;
            let ended = now()?;
            ensure!(exits.iter().all(|exit| *exit), "a wait returned nothing");
            report(&(meter.read()?, ended))
        }
    }
}
