//! The engine of the environment, through this library.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use runtime_core::{Container, ContainerSpec, PullPolicy, ReapOptions, Runtime, Scope};
use runtime_cri::{CriOptions, CriRuntime, LogRotation};

use crate::common::{self, SCOPE, variable};

pub(super) struct Engine {
    pub(super) endpoint: String,
    /// The image of all containers.
    pub(super) image: String,
}

impl Engine {
    pub(super) fn from_env() -> Result<Self> {
        Ok(Self { endpoint: variable("RUNTIME_TEST_CRI_ENDPOINT")?, image: common::image()? })
    }

    pub(super) fn spec(&self, script: &str) -> ContainerSpec {
        ContainerSpec::new(&self.image).pull_policy(PullPolicy::Never).command(["sh", "-c", script])
    }

    pub(super) async fn ours(&self) -> Result<CriRuntime> {
        ours(true).await
    }

    /// Pulls the image, and removes leftovers of earlier benches.
    pub(super) async fn prepare(&self) -> Result<()> {
        common::pull(&self.ours().await?).await?;
        self.clear().await
    }

    /// Removes all containers of the bench.
    pub(super) async fn clear(&self) -> Result<()> {
        self.ours().await?.reap(ReapOptions::default()).await?;
        Ok(())
    }

    /// Creates and starts `count` containers.
    pub(super) async fn start_many(
        &self,
        count: usize,
        script: &str,
    ) -> Result<Vec<Arc<dyn Container>>> {
        common::start_many(&self.ours().await?, &self.spec(script), count, 4).await
    }
}

/// Returns the log directory of both clients.
pub(super) fn log_dir() -> Result<PathBuf> {
    Ok(PathBuf::from(variable("RUNTIME_TEST_SHARED_DIR")?).join("bench-logs"))
}

pub(super) async fn ours(events: bool) -> Result<CriRuntime> {
    let state = PathBuf::from(variable("RUNTIME_TEST_SHARED_DIR")?).join("bench-state");
    let options = CriOptions::new(Scope::new(SCOPE)?)
        .endpoint(variable("RUNTIME_TEST_CRI_ENDPOINT")?)
        .log_dir(log_dir()?)
        .state_dir(state)
        .engine_events(events)
        .log_rotation(LogRotation::Off);
    Ok(CriRuntime::connect(options).await?)
}
