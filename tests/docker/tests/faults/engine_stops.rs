//! An engine of our own that freezes and dies while calls are under way.

use std::time::Duration;

use runtime_core::{Deadlines, Runtime};
use test_support::{Connection as _, Own, deadlines_of, dies_in_mid_call, does_not_answer};

use super::support::{Engine, OWN, Outcome, scope};

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_in_mid_call() -> Outcome {
    let own = Own::up(OWN).await?;
    let engine = Engine::of_own(&own, scope(), Deadlines::default()).await?;
    // Nothing has to be undone: the engine had not begun with the create.
    dies_in_mid_call(&own, &engine, 2, Duration::ZERO).await?;

    let deadlines = deadlines_of(Duration::from_secs(1));
    let impatient = Engine::of_own(&own, engine.runtime.scope().clone(), deadlines).await?;
    does_not_answer(&own, &engine, &impatient, Duration::from_secs(8)).await?;
    engine.finish().await
}
