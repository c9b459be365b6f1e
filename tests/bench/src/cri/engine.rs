//! The engine of the environment, reached through this library.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use runtime_core::{
    Container, ContainerSpec, Image, PullOptions, PullPolicy, ReapOptions, RegistryAuth, Runtime,
    RuntimeExt, Scope,
};
use runtime_cri::{CriOptions, CriRuntime, LogRotation};

/// What all containers of the bench belong to.
const SCOPE: &str = "bench";

pub(super) struct Engine {
    pub(super) endpoint: String,
    registry: String,
    login: RegistryAuth,
}

impl Engine {
    pub(super) fn from_env() -> Result<Self> {
        Ok(Self {
            endpoint: variable("RUNTIME_TEST_CRI_ENDPOINT")?,
            registry: variable("RUNTIME_TEST_REGISTRY")?,
            login: RegistryAuth::new(
                variable("RUNTIME_TEST_REGISTRY_USER")?,
                variable("RUNTIME_TEST_REGISTRY_PASSWORD")?,
            ),
        })
    }

    /// The image of all containers.
    pub(super) fn image(&self) -> String {
        format!("{}/test/busybox:1", self.registry)
    }

    pub(super) fn spec(&self, script: &str) -> ContainerSpec {
        ContainerSpec::new(self.image())
            .pull_policy(PullPolicy::Never)
            .command(["sh", "-c", script])
    }

    pub(super) async fn ours(&self) -> Result<CriRuntime> {
        ours(true).await
    }

    /// Pulls the image, and removes what an earlier bench has left.
    pub(super) async fn prepare(&self) -> Result<()> {
        let image = Image::new(self.image()).auth(self.login.clone());
        let options = PullOptions::default().policy(PullPolicy::Missing);
        self.ours().await?.pull(&image, options).await?;
        self.clear().await
    }

    /// Removes all that the bench has made.
    pub(super) async fn clear(&self) -> Result<()> {
        self.ours().await?.reap(ReapOptions::default()).await?;
        Ok(())
    }

    pub(super) async fn version(&self) -> Result<String> {
        let health = self.ours().await?.health().await?;
        Ok(format!("{} {}", health.engine, health.version))
    }

    /// Makes and starts so many containers.
    pub(super) async fn start_many(
        &self,
        count: usize,
        script: &str,
    ) -> Result<Vec<Arc<dyn Container>>> {
        let runtime = self.ours().await?;
        let spec = self.spec(script);
        stream::iter(0..count)
            .map(|_| async {
                let container = runtime.create_container(&spec).await?;
                container.start().await?;
                Ok(container)
            })
            .buffer_unordered(4)
            .try_collect()
            .await
    }
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name)
        .with_context(|| format!("{name} is not set: `cargo xtask bench cri` sets it"))
}

/// The folder for the logs of both.
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
