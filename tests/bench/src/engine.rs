//! The engine of the environment, through both clients.

use std::time::Duration;

use anyhow::Result;
use bollard::Docker;
use bollard::query_parameters::RemoveContainerOptions;
use runtime_core::{Container, ContainerSpec, PullPolicy, ReapOptions, Runtime, Scope};
use runtime_docker::{DockerOptions, DockerRuntime};

use crate::common::{self, SCOPE};

/// Longer than any stop, so that no call times out.
const CALL_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) struct Engine {
    /// The address in the form of `DOCKER_HOST`.
    pub(crate) host: String,
    /// The image of all containers.
    pub(crate) image: String,
}

impl Engine {
    pub(crate) fn from_env() -> Result<Self> {
        Ok(Self { host: common::variable("RUNTIME_TEST_DOCKER_HOST")?, image: common::image()? })
    }

    pub(crate) fn spec(&self, script: &str) -> ContainerSpec {
        ContainerSpec::new(&self.image).pull_policy(PullPolicy::Never).command(["sh", "-c", script])
    }

    pub(crate) async fn ours(&self) -> Result<DockerRuntime> {
        ours(&self.host).await
    }

    /// Pulls the image, and removes leftovers of earlier benches.
    pub(crate) async fn prepare(&self) -> Result<()> {
        common::pull(&self.ours().await?).await?;
        self.clear().await
    }

    /// Removes all containers of the bench.
    pub(crate) async fn clear(&self) -> Result<()> {
        self.ours().await?.reap(ReapOptions::default()).await?;
        Ok(())
    }

    /// Creates and starts `count` containers.
    pub(crate) async fn start_many(&self, count: usize, script: &str) -> Result<Vec<String>> {
        let (runtime, spec) = (self.ours().await?, self.spec(script));
        let started = common::start_many(&runtime, &spec, count, 8).await?;
        Ok(started.iter().map(|container| container.id().to_string()).collect())
    }
}

pub(crate) async fn ours(host: &str) -> Result<DockerRuntime> {
    let options = DockerOptions::new(Scope::new(SCOPE)?).host(host);
    Ok(DockerRuntime::connect(options).await?)
}

pub(crate) fn bare(host: &str) -> Result<Docker> {
    Ok(Docker::connect_with_unix(host, CALL_TIMEOUT.as_secs(), bollard::API_DEFAULT_VERSION)?)
}

pub(crate) fn forced() -> RemoveContainerOptions {
    RemoveContainerOptions { force: true, v: true, link: false }
}
