//! A dedicated engine that dies during sessions.

use test_support::{Connection as _, sessions_die_with};

use super::own::Own;
use super::support::Outcome;

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_under_sessions() -> Outcome {
    let own = Own::up().await?;
    let engine = own.connect().await?;
    sessions_die_with(&*own, &engine).await?;
    engine.finish().await
}
