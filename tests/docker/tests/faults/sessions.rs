//! An engine of our own that dies under its sessions.

use runtime_conformance::{CUT_SCRIPT, CutSessions, exec_works};
use runtime_core::{Container, Deadlines, Interactive, Runtime};

use super::own::Own;
use super::support::Outcome;

/// Sessions are lost with the engine, whether it is still away when they notice or has come back.
/// What they were in lives on.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_under_sessions() -> Outcome {
    let mut own = Own::up().await?;
    let engine = own.connect(Deadlines::default()).await?;
    let spec = engine.idle().command(["sh", "-c", CUT_SCRIPT]).interactive(Interactive::Stdin);
    for away in [true, false] {
        let container = engine.runtime.create_container(&spec).await?;
        container.start().await?;
        let sessions = CutSessions::open(&*container).await?;
        own.kill()?;
        if away {
            sessions.are_lost().await.are_freed().await;
            own.restart()?;
        } else {
            own.restart()?;
            drop(sessions.are_lost().await);
        }
        exec_works(&*container).await?;
    }
    engine.finish().await
}
