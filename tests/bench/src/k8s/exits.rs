//! Latency from the exit of a container to the return of `wait`.

use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use runtime_core::{Follow, LogOptions, Runtime};

use super::engine::{Engine, NodeKind};
use crate::measure::{Table, quantile, seconds};

/// Number of concurrent containers.
const CONCURRENT_CONTAINERS: usize = 4;

/// Kubernetes reports times in seconds, so the exit is dated by the container's last line, written
/// right before.
pub(super) async fn measure(engine: &Engine, count: usize) -> Result<()> {
    let runtime = engine.ours(NodeKind::Real).await?;
    let runtime = &runtime;
    let lives = (0..count).map(|number| async move {
        // Spread over one second, the interval of the kubelet.
        let script = format!("sleep 1.{:03}; echo bye", number * 389 % 1000);
        let container = runtime.create_container(&engine.spec(&script)).await?;
        container.start().await?;
        let followed = async {
            let options = LogOptions::default().follow(Follow::Yes);
            let log: Vec<_> = container.logs(options).await?.try_collect().await?;
            Ok::<_, anyhow::Error>((log, Instant::now()))
        };
        let waited = async {
            let exit = container.wait().await?;
            Ok((exit, SystemTime::now(), Instant::now()))
        };
        let ((log, closed), (exit, returned, at)) = tokio::try_join!(followed, waited)?;
        container.remove().await?;
        ensure!(exit.success(), "{exit}");
        let last = log.last().context("the container wrote no line")?;
        let wait = returned.duration_since(last.time)?.as_secs_f64();
        Ok((wait, closed.saturating_duration_since(at).as_secs_f64()))
    });
    let times: Vec<(f64, f64)> = stream::iter(lives.collect::<Vec<_>>())
        .buffer_unordered(CONCURRENT_CONTAINERS)
        .try_collect()
        .await?;
    let (waits, closes): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
    let mut table = Table::new(&["", "median", "99th percentile", "longest"]);
    for (what, times) in [("last line to wait", waits), ("wait to the follower's end", closes)] {
        table.row([
            what.to_owned(),
            seconds(quantile(&times, 0.5)),
            seconds(quantile(&times, 0.99)),
            seconds(quantile(&times, 1.0)),
        ]);
    }
    table.print(&format!("the end of a container that is followed, {count} containers"));
    println!("  the kubelet looks at its containers once a second, and then tells the API server");
    Ok(())
}
