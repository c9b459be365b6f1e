//! From the exit of a container to the return of a wait.

use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use runtime_core::{LogOptions, Runtime};

use super::engine::{Engine, Place};
use crate::measure::{Table, quantile, seconds};

/// How many run at once.
const AT_ONCE: usize = 4;

/// Kubernetes counts seconds, so the exit is dated by the last line of the container, which it
/// writes right before.
pub(super) async fn measure(engine: &Engine, count: usize) -> Result<()> {
    let runtime = engine.ours(Place::Real).await?;
    let runtime = &runtime;
    let lives = (0..count).map(|number| async move {
        // Spread over the second in which a kubelet looks once.
        let script = format!("sleep 1.{:03}; echo bye", number * 389 % 1000);
        let container = runtime.create_container(&engine.spec(&script)).await?;
        container.start().await?;
        let exit = container.wait().await?;
        let returned = SystemTime::now();
        let log: Vec<_> = container.logs(LogOptions::default()).await?.try_collect().await?;
        container.remove().await?;
        ensure!(exit.success(), "{exit}");
        let last = log.last().context("it said nothing")?;
        Ok(returned.duration_since(last.time)?.as_secs_f64())
    });
    let times: Vec<f64> =
        stream::iter(lives.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).try_collect().await?;
    let mut table = Table::new(&["", "median", "99th percentile", "longest"]);
    table.row([
        "ours".to_owned(),
        seconds(quantile(&times, 0.5)),
        seconds(quantile(&times, 0.99)),
        seconds(quantile(&times, 1.0)),
    ]);
    table.print(&format!("from the last line to the return of wait, {count} containers"));
    println!("  the kubelet looks at its containers once a second, and then tells the API server");
    Ok(())
}
