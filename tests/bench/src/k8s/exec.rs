//! Commands in a container on the real node.

use anyhow::{Context, Result};
use runtime_core::{Container, Runtime};

use super::engine::{Engine, NodeKind};
use crate::common::SCOPE;
use crate::sessions::{self, CommandLine};

pub(super) async fn compare(
    engine: &Engine,
    pairs: usize,
    bytes: u64,
    rounds: usize,
) -> Result<()> {
    let runtime = engine.ours(NodeKind::Real).await?;
    let container = runtime.create_container(&engine.spec("exec sleep 3600")).await?;
    container.start().await?;
    let pod = engine.bare().await?.names(SCOPE).await?.pop().context("no pod")?;
    let kubeconfig = engine.kubeconfig.to_string_lossy();
    let words = ["--kubeconfig", &kubeconfig, "--namespace", &engine.namespace];
    let command = CommandLine {
        name: "kubectl exec",
        program: engine.kubectl.to_string_lossy().into_owned(),
        arguments: [&words[..], &["exec", "--stdin", &pod, "--"]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
    };
    sessions::round_trips(&*container, command.name, async || command.once().await, pairs).await?;
    sessions::throughput(&*container, &command, bytes, rounds).await?;
    Ok(container.remove().await?)
}
