//! The life of a container that exits at once.

use anyhow::{Result, ensure};
use futures_util::TryStreamExt;
use runtime_core::{LogOptions, Runtime};
use runtime_cri::CriRuntime;

use super::bare::Bare;
use super::engine::Engine;
use crate::measure::median;
use crate::pairs::Pairs;

const SCRIPT: &str = "echo done";

pub(super) async fn compare(engine: &Engine, pairs: usize) -> Result<()> {
    let (ours, bare) = (engine.ours().await?, Bare::connect(engine).await?);
    // The first ones make what is made once.
    ours_once(engine, &ours).await?;
    bare.once(engine, SCRIPT, pairs).await?;
    bare.take_calls();
    let (mut our_calls, mut bare_calls) = (Vec::new(), Vec::new());
    let pairs = Pairs::run(
        pairs,
        async |_| {
            let calls = ours.requests_sent();
            ours_once(engine, &ours).await?;
            our_calls.push((ours.requests_sent() - calls) as f64);
            Ok(())
        },
        async |pair| {
            bare.once(engine, SCRIPT, pair).await?;
            bare_calls.push(bare.take_calls() as f64);
            Ok(())
        },
    )
    .await?;
    let calls = |calls: &[f64]| format!("{:.0}", median(calls));
    pairs.print("calls, median", calls(&our_calls), ("bare generated client", calls(&bare_calls)));
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
