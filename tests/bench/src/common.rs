//! Shared parts of the benches.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use runtime_core::{
    Container, ContainerSpec, Image, LogOptions, PullOptions, PullPolicy, RegistryAuth, Runtime,
    RuntimeExt,
};

use crate::measure;

/// Scope of all containers of the bench.
pub(crate) const SCOPE: &str = "bench";

/// Script of a container that exits immediately.
pub(crate) const ONE_LINE: &str = "echo done";

/// Returns an environment variable.
pub(crate) fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: `cargo xtask bench` sets it"))
}

/// Returns the image of all containers in the registry of the environment.
pub(crate) fn image() -> Result<String> {
    Ok(format!("{}/test/busybox:1", variable("RUNTIME_TEST_REGISTRY")?))
}

/// Pulls the image if it is missing.
pub(crate) async fn pull(runtime: &dyn Runtime) -> Result<()> {
    let login = RegistryAuth::new(
        variable("RUNTIME_TEST_REGISTRY_USER")?,
        variable("RUNTIME_TEST_REGISTRY_PASSWORD")?,
    );
    let options = PullOptions::default().policy(PullPolicy::Missing);
    runtime.pull(&Image::new(image()?).auth(login), options).await?;
    Ok(())
}

/// Prints engine and machine.
pub(crate) async fn heading(runtime: &dyn Runtime) -> Result<()> {
    if cfg!(debug_assertions) {
        println!("This is a debug build: the results are not meaningful.");
    }
    let health = runtime.health().await?;
    println!("engine     {} {}", health.engine, health.version);
    println!("machine    {}", measure::machine());
    Ok(())
}

/// Runs the lifecycle of a container that writes one line and exits.
pub(crate) async fn live(runtime: &dyn Runtime, spec: &ContainerSpec) -> Result<()> {
    let container = runtime.create_container(spec).await?;
    container.start().await?;
    let exit = container.wait().await?;
    let log: Vec<_> = container.logs(LogOptions::default()).await?.try_collect().await?;
    container.remove().await?;
    ensure!(exit.success() && log.len() == 1, "{exit}, and {} records", log.len());
    Ok(())
}

/// Creates and starts `count` containers.
pub(crate) async fn start_many(
    runtime: &dyn Runtime,
    spec: &ContainerSpec,
    count: usize,
    at_once: usize,
) -> Result<Vec<Arc<dyn Container>>> {
    stream::iter(0..count)
        .map(|_| async {
            let container = runtime.create_container(spec).await?;
            container.start().await?;
            Ok(container)
        })
        .buffer_unordered(at_once)
        .try_collect()
        .await
}
