//! Bench of the Kubernetes backend, compared with bare kube, kubectl, and one polling loop per pod.
//!
//! Measurements of processes run on the one real node; measurements of large numbers run on hollow
//! nodes, which are real kubelets with a simulated engine.

mod bare;
mod engine;
mod exec;
mod exits;
mod fleet;
mod lifecycle;
mod logs;
mod part;
mod scale;

use anyhow::Result;
use clap::ValueEnum;

use crate::common;
use engine::{Engine, NodeKind};
pub(crate) use part::Part;

/// Sizes of the measurements
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Sizes {
    /// Runs only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Runs small measurements, as a test of the bench
    #[arg(long)]
    quick: bool,
    /// Pairs of container lifecycles [default: 30, quick: 2]
    #[arg(long)]
    pairs: Option<usize>,
    /// MiB of log [default: 256, quick: 8]
    #[arg(long)]
    log_mib: Option<usize>,
    /// Bytes of a line with its end
    #[arg(long, default_value_t = 128)]
    line: usize,
    /// Rounds of reading the log [default: 3, quick: 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// MiB through an exec [default: 1024, quick: 8]
    #[arg(long)]
    exec_mib: Option<usize>,
    /// Container exits [default: 200, quick: 8]
    #[arg(long)]
    exits: Option<usize>,
    /// Concurrent pods in the lifecycle test [default: 300, quick: 10]
    #[arg(long)]
    pods: Option<usize>,
    /// Hollow nodes [default: 50, quick: 2]
    #[arg(long)]
    nodes: Option<usize>,
    /// Containers of one scope, one run per value [default: 300,3000, quick: 10,20]
    #[arg(long, value_delimiter = ',')]
    scale: Vec<usize>,
}

impl Sizes {
    fn or(&self, given: Option<usize>, default: usize, quick: usize) -> usize {
        given.unwrap_or(if self.quick { quick } else { default })
    }

    fn includes(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// The lifecycle of a container that exits immediately, on the real node
    Lifecycle,
    /// Reading a large log, on the real node
    Logs,
    /// Commands in a container, on the real node
    Exec,
    /// The latency from the exit of a container to the return of wait, on the real node
    Exits,
    /// The lifecycle of many pods, on hollow nodes
    Fleet,
    /// Thousands of containers of one scope, on hollow nodes
    Scale,
}

pub(crate) async fn run(sizes: &Sizes) -> Result<()> {
    let engine = Engine::from_env()?;
    engine.clear().await?;
    common::heading(&engine.ours(NodeKind::Real).await?).await?;
    if sizes.includes(Subject::Lifecycle) {
        lifecycle::compare(&engine, sizes.or(sizes.pairs, 30, 2)).await?;
    }
    if sizes.includes(Subject::Logs) {
        let bytes = (sizes.or(sizes.log_mib, 256, 8) as u64) << 20;
        logs::compare(&engine, bytes, sizes.line, sizes.or(sizes.rounds, 3, 1)).await?;
    }
    if sizes.includes(Subject::Exec) {
        let bytes = (sizes.or(sizes.exec_mib, 1024, 8) as u64) << 20;
        let (pairs, rounds) = (sizes.or(sizes.pairs, 30, 2), sizes.or(sizes.rounds, 3, 1));
        exec::compare(&engine, pairs, bytes, rounds).await?;
    }
    if sizes.includes(Subject::Exits) {
        exits::measure(&engine, sizes.or(sizes.exits, 200, 8)).await?;
    }
    if sizes.includes(Subject::Fleet) || sizes.includes(Subject::Scale) {
        let nodes = sizes.or(sizes.nodes, 50, 2);
        engine.on_cluster(move |cluster| cluster.hollow_nodes(nodes).map(drop)).await?;
        println!("\n{nodes} hollow nodes are ready");
        let measured = on_hollow_nodes(&engine, sizes).await;
        engine.clear().await?;
        engine.on_cluster(test_engines::Cluster::remove_hollow_nodes).await?;
        measured?;
    }
    Ok(())
}

async fn on_hollow_nodes(engine: &Engine, sizes: &Sizes) -> Result<()> {
    if sizes.includes(Subject::Fleet) {
        fleet::compare(engine, sizes.or(sizes.pods, 300, 10)).await?;
    }
    if sizes.includes(Subject::Scale) {
        let default: &[usize] = if sizes.quick { &[10, 20] } else { &[300, 3000] };
        let counts = if sizes.scale.is_empty() { default } else { &sizes.scale };
        scale::measure(engine, counts).await?;
    }
    Ok(())
}
