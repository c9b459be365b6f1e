//! A connection without traffic for a long time.

use std::time::Duration;

use futures_util::TryStreamExt;
use runtime_core::{LogOptions, StopOptions, StopOutcome};
use test_support::{Connection as _, until};

use super::support::{Engine, Outcome, matrix};

/// Returns the duration of a stop in seconds. An engine tolerates two minutes of a client that sends a
/// keepalive ping every 30 seconds; only the whole matrix tests longer stops.
fn long() -> u64 {
    if matrix() { 150 } else { 3 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_takes_long_is_not_cut_off() -> Outcome {
    let engine = Engine::of_environment().await?;
    let long = long();
    let script =
        format!("trap 'sleep {long}; exit 7' TERM; echo ready; while :; do sleep 0.1; done");
    let container = engine.start(&engine.script(&script)).await?;
    until("the trap", async || {
        let said: Vec<_> = container.logs(LogOptions::default()).await?.try_collect().await?;
        Ok(!said.is_empty())
    })
    .await?;
    let grace = Duration::from_secs(long + 60);
    match container.stop(StopOptions::default().grace(grace)).await? {
        StopOutcome::Stopped(exit) => assert_eq!(exit.code, Some(7), "{exit:?}"),
        other => panic!("it is {other:?}"),
    }
    engine.finish().await
}
