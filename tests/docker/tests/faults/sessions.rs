//! A dedicated engine that dies during sessions.

use runtime_core::Deadlines;
use test_support::{Connection as _, Own, sessions_die_with};

use super::support::{Engine, OWN, Outcome, scope};

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_under_sessions() -> Outcome {
    let own = Own::up(OWN).await?;
    let engine = Engine::of_own(&own, scope(), Deadlines::default()).await?;
    sessions_die_with(&own, &engine).await?;
    engine.finish().await
}
