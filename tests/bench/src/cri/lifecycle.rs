//! The life of a container that exits at once.

use std::time::Instant;

use anyhow::{Result, ensure};
use futures_util::TryStreamExt;
use runtime_core::{LogOptions, Runtime};
use runtime_cri::CriRuntime;

use super::bare::Bare;
use super::engine::Engine;
use crate::measure::{Table, median, quantile, seconds};

const SCRIPT: &str = "echo done";

pub(super) async fn compare(engine: &Engine, pairs: usize) -> Result<()> {
    let (ours, bare) = (engine.ours().await?, Bare::connect(engine).await?);
    // The first ones make what is made once.
    ours_once(engine, &ours).await?;
    bare.once(engine, SCRIPT, pairs).await?;
    bare.take_calls();
    let (mut our_times, mut bare_times) = (Vec::new(), Vec::new());
    let (mut our_calls, mut bare_calls) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        // Who goes first changes, because the engine is left in another state by each.
        for turn in 0..2 {
            let calls = ours.requests_sent();
            let begun = Instant::now();
            if (pair + turn) % 2 == 0 {
                ours_once(engine, &ours).await?;
                our_times.push(begun.elapsed().as_secs_f64());
                our_calls.push((ours.requests_sent() - calls) as f64);
            } else {
                bare.once(engine, SCRIPT, pair).await?;
                bare_times.push(begun.elapsed().as_secs_f64());
                bare_calls.push(bare.take_calls() as f64);
            }
        }
    }
    let mut table = Table::new(&["", "calls, median", "median", "quartiles"]);
    for (name, calls, times) in
        [("ours", &our_calls, &our_times), ("bare generated client", &bare_calls, &bare_times)]
    {
        table.row([
            name.to_owned(),
            format!("{:.0}", median(calls)),
            seconds(median(times)),
            format!("{} to {}", seconds(quantile(times, 0.25)), seconds(quantile(times, 0.75))),
        ]);
    }
    table.print(&format!(
        "create + start + wait + logs + remove of a container that exits at once, {pairs} pairs"
    ));
    let ratios: Vec<f64> = our_times.iter().zip(&bare_times).map(|(a, b)| a / b).collect();
    println!(
        "  ratio of the medians {:.3}, median of the ratios of the pairs {:.3} (at most 1.03)",
        median(&our_times) / median(&bare_times),
        median(&ratios)
    );
    Ok(())
}

async fn ours_once(engine: &Engine, runtime: &CriRuntime) -> Result<()> {
    let container = runtime.create_container(&engine.spec(SCRIPT)).await?;
    container.start().await?;
    let exit = container.wait().await?;
    let log: Vec<_> = container.logs(LogOptions::default()).await?.try_collect().await?;
    container.remove().await?;
    ensure!(exit.success() && log.len() == 1, "{exit}, and {} records", log.len());
    Ok(())
}
