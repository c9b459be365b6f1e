//! Lifecycle of many pods, and the number of requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use runtime_core::{Container, Runtime};
use serde::{Deserialize, Serialize};

use super::bare::{BARE_SCOPE, Bare, Template, exit_code};
use super::engine::{Engine, NodeKind};
use super::part::Way;
use crate::common::SCOPE;
use crate::measure::{Memory, Table, mib, seconds};
use crate::part::{Running, report};

const SCRIPT: &str = "sleep 86400";

/// Number of concurrent requests of one kind.
const CONCURRENT_REQUESTS: usize = 16;

/// Polling interval of the naive client.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Pause between two phases, in which the server's metrics are read.
const PAUSE: Duration = Duration::from_secs(4);

const PHASES: [&str; 4] = ["create", "start", "wait", "remove"];

#[derive(Debug, Serialize, Deserialize)]
struct Phase {
    requests: u64,
    seconds: f64,
    /// Peak memory in bytes.
    memory: u64,
}

pub(super) async fn compare(engine: &Engine, pods: usize) -> Result<()> {
    let mut table = Table::new(&[
        "",
        "requests of the client",
        "the server's count, of all",
        "time",
        "memory at most",
    ]);
    let mut totals = Vec::new();
    for (way, name, scope) in
        [(Way::Ours, "ours", SCOPE), (Way::Naive, "a GET loop each", BARE_SCOPE)]
    {
        let argument = if way == Way::Ours { "ours" } else { "naive" };
        let phases = run(engine, argument, scope, pods).await?;
        let (mut of_client, mut of_server) = (0, 0);
        for (phase, (figures, counted)) in PHASES.iter().zip(&phases) {
            of_client += figures.requests;
            of_server += counted;
            table.row([
                format!("{name}: {phase}"),
                figures.requests.to_string(),
                counted.to_string(),
                seconds(figures.seconds),
                mib(figures.memory),
            ]);
        }
        totals.push((of_client, of_server));
        engine.clear().await?;
    }
    table.print(&format!(
        "{pods} pods on hollow nodes; the server's count has the requests of nodes for pods in it"
    ));
    if let [ours, naive] = totals.as_slice() {
        println!(
            "  requests of the client: {} to {} ({:.2} of them); the server's count: {} to {}",
            ours.0,
            naive.0,
            ours.0 as f64 / naive.0 as f64,
            ours.1,
            naive.1
        );
    }
    Ok(())
}

async fn run(engine: &Engine, way: &str, scope: &str, pods: usize) -> Result<Vec<(Phase, u64)>> {
    let admin = engine.admin().await?;
    let mut before = admin.counted().await?;
    let mut part = Running::start(["k8s", "fleet", way, &pods.to_string()])?;
    let mut phases = Vec::new();
    for phase in PHASES {
        let mut others = 0;
        if phase == "wait" {
            // Another client ends the containers, while all are awaited.
            tokio::time::sleep(PAUSE * 2).await;
            let names = admin.names(scope).await?;
            ensure!(names.len() == pods, "{} pods are listed", names.len());
            others = names.len() as u64 + 1;
            admin.end(&names).await?;
        }
        let figures: Phase = part.figure().await?;
        let now = admin.counted().await?;
        phases.push((figures, now.since(&before).saturating_sub(others)));
        before = now;
    }
    Ok(phases)
}

/// Runs in a separate process.
pub(super) async fn live(way: Way, pods: usize) -> Result<()> {
    let engine = Engine::from_env()?;
    match way {
        Way::Ours => ours(&engine, pods).await,
        Way::Naive => naive(&engine, pods).await,
    }
}

async fn ours(engine: &Engine, pods: usize) -> Result<()> {
    let runtime = engine.ours(NodeKind::Hollow).await?;
    let spec = engine.spec(SCRIPT);
    let mut meter = Meter::new(runtime.requests_sent());
    let creates = (0..pods).map(|_| runtime.create_container(&spec));
    let containers: Vec<Arc<dyn Container>> =
        stream::iter(creates).buffer_unordered(CONCURRENT_REQUESTS).try_collect().await?;
    meter.phase(runtime.requests_sent()).await?;
    let starts = containers.iter().map(|container| async move { container.start().await });
    at_once(starts, pods).await?;
    meter.phase(runtime.requests_sent()).await?;
    let waits = containers.iter().map(|container| async move { container.wait().await });
    at_once(waits, pods).await?;
    meter.phase(runtime.requests_sent()).await?;
    let removes = containers.iter().map(|container| async move { container.remove().await });
    at_once(removes, CONCURRENT_REQUESTS).await?;
    meter.phase(runtime.requests_sent()).await
}

async fn at_once<T, E: Into<anyhow::Error>>(
    work: impl Iterator<Item = impl Future<Output = Result<T, E>>>,
    most: usize,
) -> Result<()> {
    let work: Vec<_> = work.map(|one| async { one.await.map(drop).map_err(Into::into) }).collect();
    stream::iter(work).buffer_unordered(most).try_collect().await
}

async fn naive(engine: &Engine, pods: usize) -> Result<()> {
    let template = Template::take(engine, NodeKind::Hollow, SCRIPT).await?;
    let bare = engine.bare().await?;
    let (bare, template) = (&bare, &template);
    let mut sent = 0;
    let mut total = move || {
        sent += bare.take_requests();
        sent
    };
    let mut meter = Meter::new(total());
    let creates = (0..pods).map(|number| async move {
        let name = format!("bare-{}-{number}", std::process::id());
        let made = bare.create(&template.pod(&name)?).await?;
        Ok::<_, anyhow::Error>((name, made.metadata.uid.context("no UID")?))
    });
    let names: Vec<(String, String)> = stream::iter(creates.collect::<Vec<_>>())
        .buffer_unordered(CONCURRENT_REQUESTS)
        .try_collect()
        .await?;
    meter.phase(total()).await?;
    let running =
        |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let starts = names.iter().map(|(name, uid)| async move {
        bare.start(name, uid, template).await?;
        ask_until(bare, name, |pod| pod.is_some_and(running)).await
    });
    at_once(starts, pods).await?;
    meter.phase(total()).await?;
    let ended = |pod: &Pod| exit_code(pod).is_some();
    let waits = names
        .iter()
        .map(|(name, _)| async move { ask_until(bare, name, |pod| pod.is_none_or(ended)).await });
    at_once(waits, pods).await?;
    meter.phase(total()).await?;
    let removes = names.iter().map(|(name, uid)| async move {
        bare.delete(name, uid, 0).await?;
        ask_until(bare, name, |pod| pod.is_none()).await
    });
    at_once(removes, CONCURRENT_REQUESTS).await?;
    meter.phase(total()).await
}

async fn ask_until(bare: &Bare, name: &str, done: impl Fn(Option<&Pod>) -> bool) -> Result<()> {
    while !done(bare.get(name).await?.as_ref()) {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Prints the results of each phase.
struct Meter {
    requests: u64,
    begun: Instant,
}

impl Meter {
    fn new(requests: u64) -> Self {
        Self { requests, begun: Instant::now() }
    }

    async fn phase(&mut self, requests: u64) -> Result<()> {
        let seconds = self.begun.elapsed().as_secs_f64();
        report(&Phase {
            requests: requests - self.requests,
            seconds,
            memory: Memory::read()?.peak,
        })?;
        tokio::time::sleep(PAUSE).await;
        *self = Self::new(requests);
        Ok(())
    }
}
