//! A dedicated engine that freezes and dies during calls.

use std::time::Duration;

use runtime_core::{Deadlines, Runtime};
use test_support::{Connection as _, Own, deadlines_of, dies_in_mid_call, does_not_answer};

use super::support::{Engine, OWN, Outcome, scope};

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_in_mid_call() -> Outcome {
    let own = Own::up(OWN).await?;
    let engine = Engine::of_own(&own, scope(), Deadlines::default()).await?;
    // No cleanup is expected, because the engine had not started the create.
    dies_in_mid_call(&own, &engine, 2, Duration::ZERO).await?;

    let deadlines = deadlines_of(Duration::from_secs(1));
    let impatient = Engine::of_own(&own, engine.runtime.scope().clone(), deadlines).await?;
    does_not_answer(&own, &engine, &impatient, Duration::from_secs(8)).await?;
    engine.finish().await
}
