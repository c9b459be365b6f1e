//! Lifecycle of a container that exits immediately.

use anyhow::{Result, ensure};
use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{LogsOptions, WaitContainerOptions};
use futures_util::{StreamExt, TryStreamExt};

use crate::common::{ONE_LINE, live};
use crate::engine::{self, Engine};
use crate::pairs::Pairs;
use crate::proxy::Proxy;

pub(crate) async fn compare(engine: &Engine, pairs: usize) -> Result<()> {
    let proxy = Proxy::open(&engine.host)?;
    let ours = engine::ours(&proxy.host()).await?;
    proxy.take();
    live(&ours, &engine.spec(ONE_LINE)).await?;
    let our_requests = proxy.take();
    let bare = engine::bare(&proxy.host())?;
    bare_once(engine, &bare).await?;
    let bare_requests = proxy.take();
    drop((ours, bare, proxy));

    let (ours, bare) = (engine.ours().await?, engine::bare(&engine.host)?);
    let pairs = Pairs::run(
        pairs,
        async |_| live(&ours, &engine.spec(ONE_LINE)).await,
        async |_| bare_once(engine, &bare).await,
    )
    .await?;
    pairs.print(
        "requests",
        our_requests.len().to_string(),
        ("bare bollard", bare_requests.len().to_string()),
    );
    println!("  requests of ours: {}", our_requests.join(", "));
    if sorted(&our_requests) != sorted(&bare_requests) {
        println!("  requests of bare bollard: {}", bare_requests.join(", "));
    }
    Ok(())
}

fn sorted(requests: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = requests.iter().collect();
    sorted.sort();
    sorted
}

/// Requests of a careful caller of bollard: the inspect distinguishes out-of-memory exits, and
/// returns the exit time.
async fn bare_once(engine: &Engine, docker: &Docker) -> Result<()> {
    let body = ContainerCreateBody {
        image: Some(engine.image.clone()),
        entrypoint: Some(["sh", "-c", ONE_LINE].map(str::to_owned).into()),
        ..ContainerCreateBody::default()
    };
    let id = docker.create_container(None, body).await?.id;
    docker.start_container(&id, None).await?;
    let options = WaitContainerOptions { condition: "not-running".to_owned() };
    let waited = docker.wait_container(&id, Some(options)).next().await;
    let inspect = docker.inspect_container(&id, None).await?;
    let options =
        LogsOptions { stdout: true, stderr: true, timestamps: true, ..LogsOptions::default() };
    let log: Vec<_> = docker.logs(&id, Some(options)).try_collect().await?;
    docker.remove_container(&id, Some(engine::forced())).await?;
    let code = inspect.state.and_then(|state| state.exit_code);
    ensure!(
        matches!(waited, Some(Ok(_))) && code == Some(0) && log.len() == 1,
        "{waited:?}, {code:?}, and {} lines",
        log.len()
    );
    Ok(())
}
