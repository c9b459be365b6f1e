//! Commands in a container on the CRI.

use anyhow::Result;
use runtime_core::{Container, Runtime};

use super::bare::Bare;
use super::engine::Engine;
use crate::sessions;

pub(super) async fn compare(engine: &Engine, pairs: usize) -> Result<()> {
    let (ours, bare) = (engine.ours().await?, Bare::connect(engine).await?);
    let container = ours.create_container(&engine.spec("exec sleep 3600")).await?;
    container.start().await?;
    let id = container.id().as_str();
    let once = async || bare.exec(id, "true").await;
    sessions::round_trips(&*container, "bare ExecSync", once, pairs).await?;
    Ok(container.remove().await?)
}
