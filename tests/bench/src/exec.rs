//! Commands in a container on Docker.

use anyhow::{Result, ensure};
use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures_util::StreamExt;
use runtime_core::{Container, Runtime};

use crate::engine::{self, Engine};
use crate::sessions::{self, CommandLine};

pub(crate) async fn compare(
    engine: &Engine,
    pairs: usize,
    bytes: u64,
    rounds: usize,
) -> Result<()> {
    let (ours, bare) = (engine.ours().await?, engine::bare(&engine.host)?);
    let container = ours.create_container(&engine.spec("exec sleep 3600")).await?;
    container.start().await?;
    let id = container.id().as_str();
    sessions::round_trips(&*container, "bare bollard", async || once(&bare, id).await, pairs)
        .await?;
    let words = ["--host", &engine.host, "exec", "--interactive", id];
    let command = CommandLine {
        name: "docker exec",
        program: "docker".to_owned(),
        arguments: words.map(str::to_owned).into(),
    };
    sessions::throughput(&*container, &command, bytes, rounds).await?;
    Ok(container.remove().await?)
}

async fn once(docker: &Docker, id: &str) -> Result<()> {
    let options = CreateExecOptions {
        cmd: Some(vec!["true"]),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = docker.create_exec(id, options).await?.id;
    if let StartExecResults::Attached { mut output, .. } = docker.start_exec(&exec, None).await? {
        while let Some(piece) = output.next().await {
            piece?;
        }
    }
    let code = docker.inspect_exec(&exec).await?.exit_code;
    ensure!(code == Some(0), "true failed: {code:?}");
    Ok(())
}
