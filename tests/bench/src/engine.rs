//! The engine of the environment, reached in both ways.

use std::time::Duration;

use anyhow::{Context, Result};
use bollard::Docker;
use bollard::query_parameters::RemoveContainerOptions;
use futures_util::{StreamExt, TryStreamExt, stream};
use runtime_core::{
    ContainerSpec, Image, PullOptions, PullPolicy, ReapOptions, RegistryAuth, Runtime, RuntimeExt,
    Scope,
};
use runtime_docker::{DockerOptions, DockerRuntime};

/// Longer than any stop; none of the calls is to fail by it.
const PATIENCE: Duration = Duration::from_secs(600);

/// What all containers of the bench belong to.
pub(crate) const SCOPE: &str = "bench";

pub(crate) struct Engine {
    /// In the form of `DOCKER_HOST`.
    pub(crate) host: String,
    registry: String,
    login: RegistryAuth,
}

impl Engine {
    pub(crate) fn from_env() -> Result<Self> {
        let variable = |name: &str| {
            std::env::var(name)
                .with_context(|| format!("{name} is not set: `cargo xtask bench docker` sets it"))
        };
        Ok(Self {
            host: variable("RUNTIME_TEST_DOCKER_HOST")?,
            registry: variable("RUNTIME_TEST_REGISTRY")?,
            login: RegistryAuth::new(
                variable("RUNTIME_TEST_REGISTRY_USER")?,
                variable("RUNTIME_TEST_REGISTRY_PASSWORD")?,
            ),
        })
    }

    /// The image of all containers.
    pub(crate) fn image(&self) -> String {
        format!("{}/test/busybox:1", self.registry)
    }

    pub(crate) fn spec(&self, script: &str) -> ContainerSpec {
        ContainerSpec::new(self.image())
            .pull_policy(PullPolicy::Never)
            .command(["sh", "-c", script])
    }

    pub(crate) async fn ours(&self) -> Result<DockerRuntime> {
        ours(&self.host).await
    }

    /// Pulls the image, and removes what an earlier bench has left.
    pub(crate) async fn prepare(&self) -> Result<()> {
        let runtime = self.ours().await?;
        let image = Image::new(self.image()).auth(self.login.clone());
        runtime.pull(&image, PullOptions::default().policy(PullPolicy::Missing)).await?;
        self.clear().await
    }

    /// Removes all that the bench has made.
    pub(crate) async fn clear(&self) -> Result<()> {
        self.ours().await?.reap(ReapOptions::default()).await?;
        Ok(())
    }

    pub(crate) async fn version(&self) -> Result<String> {
        let health = self.ours().await?.health().await?;
        Ok(format!("{} {}", health.engine, health.version))
    }

    /// Makes and starts so many containers.
    pub(crate) async fn start_many(&self, count: usize, script: &str) -> Result<Vec<String>> {
        let runtime = self.ours().await?;
        let spec = self.spec(script);
        stream::iter(0..count)
            .map(|_| async {
                let container = runtime.create_container(&spec).await?;
                container.start().await?;
                Ok(container.id().to_string())
            })
            .buffer_unordered(8)
            .try_collect()
            .await
    }
}

pub(crate) async fn ours(host: &str) -> Result<DockerRuntime> {
    let options = DockerOptions::new(Scope::new(SCOPE)?).host(host);
    Ok(DockerRuntime::connect(options).await?)
}

pub(crate) fn bare(host: &str) -> Result<Docker> {
    Ok(Docker::connect_with_unix(host, PATIENCE.as_secs(), bollard::API_DEFAULT_VERSION)?)
}

pub(crate) fn forced() -> RemoveContainerOptions {
    RemoveContainerOptions { force: true, v: true, link: false }
}
