//! Lifecycle of a container that exits immediately.

use anyhow::Result;

use super::bare::Bare;
use super::engine::Engine;
use crate::common::{ONE_LINE, live};
use crate::measure::median;
use crate::pairs::Pairs;

pub(super) async fn compare(engine: &Engine, pairs: usize) -> Result<()> {
    let (ours, bare) = (engine.ours().await?, Bare::connect(engine).await?);
    // The first containers include one-time setup.
    live(&ours, &engine.spec(ONE_LINE)).await?;
    bare.once(engine, ONE_LINE, pairs).await?;
    bare.take_calls();
    let (mut our_calls, mut bare_calls) = (Vec::new(), Vec::new());
    let pairs = Pairs::run(
        pairs,
        async |_| {
            let calls = ours.requests_sent();
            live(&ours, &engine.spec(ONE_LINE)).await?;
            our_calls.push((ours.requests_sent() - calls) as f64);
            Ok(())
        },
        async |pair| {
            bare.once(engine, ONE_LINE, pair).await?;
            bare_calls.push(bare.take_calls() as f64);
            Ok(())
        },
    )
    .await?;
    let calls = |calls: &[f64]| format!("{:.0}", median(calls));
    pairs.print("calls, median", calls(&our_calls), ("bare generated client", calls(&bare_calls)));
    Ok(())
}
