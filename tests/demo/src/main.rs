//! Runs one real container, from the pull to the exit code. `cargo xtask demo` runs this program.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use futures_util::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use runtime_core::{
    Container, ContainerExt, ContainerSpec, ContainerStats, ErrorKind, Follow, Image, LogOptions,
    PullEvent, PullOptions, PullPolicy, RegistryAuth, Runtime, Scope,
};
use runtime_cri::{CriOptions, CriRuntime};
use runtime_docker::{DockerOptions, DockerRuntime};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime, StatsSource};
use test_engines::{Engine, LAYERS, Site};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo", about = "Runs a real container and shows what happens")]
struct Arguments {
    /// The backend
    #[arg(long, value_enum, default_value = "docker")]
    backend: Backend,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Backend {
    Docker,
    Cri,
    /// A private cluster: etcd, the Kubernetes components and a node
    K8s,
}

/// Script of the container. It writes to both streams, computes for a moment, and exits with 7, so
/// that the exit code is recognisable.
const SCRIPT: &str = "echo \"hello from $(hostname)\"; i=0; while [ $i -lt 5 ]; do i=$((i+1)); \
    echo \"step $i of 5\"; n=0; while [ $n -lt 60000 ]; do n=$((n+1)); done; sleep 0.3; \
    done; echo 'done, with a code of my own' >&2; exit 7";

fn main() -> ExitCode {
    // Errors are not returned from `main`, which would print a backtrace if backtraces are enabled.
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut started = Started::default();
    let outcome =
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
            tokio::select! {
                outcome = demo(arguments.backend, &mut started) => outcome,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            }
        });
    let down = started.down();
    outcome.and(down)
}

/// Engines that this run has started and stops at the end.
#[derive(Default)]
struct Started(Vec<Engine>);

impl Started {
    fn up(&mut self, engine: Engine) -> Result<test_engines::Running> {
        if let Some(running) = engine.status()? {
            return Ok(running);
        }
        // Recorded before the start, because a partly started engine has to be stopped, too.
        self.0.push(engine);
        engine.up()
    }

    fn down(self) -> Result<()> {
        for engine in self.0.into_iter().rev() {
            engine.down().with_context(|| format!("taking {} down", engine.name()))?;
        }
        Ok(())
    }
}

async fn demo(backend: Backend, started: &mut Started) -> Result<()> {
    let runtime: Arc<dyn Runtime> = match backend {
        Backend::Docker => Arc::new(docker(started).await?),
        Backend::Cri => Arc::new(cri(started).await?),
        Backend::K8s => Arc::new(kubernetes(started).await?),
    };
    let health = runtime.health().await?;
    println!("engine     {} {}", health.engine, health.version);
    for warning in &health.warnings {
        println!("           {warning}");
    }
    let image = image(started)?;
    if runtime.capabilities().deferred_pull {
        println!("pull       by the node, when the container starts");
    } else {
        pull(&*runtime, &image).await?;
    }

    let spec = ContainerSpec::new(image)
        .command(["sh", "-c", SCRIPT])
        .env("TERM", "dumb")
        .memory(128 << 20)
        .cpu_count(1.0);
    let container = runtime.create_container(&spec).await?;
    println!("created    {} ({})", container.name(), &container.id().as_str()[..12]);
    let shown = show(&*container).await;
    container.ensure_removed().await?;
    println!("removed    {}", container.name());
    runtime.close().await?;
    shown
}

/// Connects to the default engine of Docker's CLI, or starts a private one.
async fn docker(started: &mut Started) -> Result<DockerRuntime> {
    let scope = Scope::new("demo")?;
    match DockerRuntime::connect(DockerOptions::new(scope.clone())).await {
        Ok(runtime) => return Ok(runtime),
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            println!("no engine  {error}");
            println!("           setting a private one up below target/env");
        }
        Err(error) => return Err(error.into()),
    }
    let running = started.up(Engine::Docker)?;
    let host = running.host().context("the private engine has no socket")?;
    Ok(DockerRuntime::connect(DockerOptions::new(scope).host(host)).await?)
}

/// Connects to the engine at `CONTAINER_RUNTIME_ENDPOINT`, or starts a private one.
///
/// The default sockets are not tried, because they may belong to a containerd that only serves
/// Docker and has no network for sandboxes.
async fn cri(started: &mut Started) -> Result<CriRuntime> {
    let options = CriOptions::new(Scope::new("demo")?);
    if std::env::var_os("CONTAINER_RUNTIME_ENDPOINT").is_some_and(|value| !value.is_empty()) {
        return Ok(CriRuntime::connect(options).await?);
    }
    println!("no engine  CONTAINER_RUNTIME_ENDPOINT is not set");
    println!("           setting a private one up below target/env");
    // Recorded explicitly: an implicitly started registry would not be stopped.
    started.up(Engine::Registry)?;
    let running = started.up(Engine::Containerd)?;
    let endpoint = running.host().context("the private engine has no socket")?;
    let directory = Site::of_checkout()?.shared_dir()?;
    let options = options
        .endpoint(endpoint)
        .log_dir(directory.join("demo-logs"))
        .state_dir(directory.join("demo-state"));
    Ok(CriRuntime::connect(options).await?)
}

/// Starts a private cluster and connects with exactly the rights of the backend's manifest.
async fn kubernetes(started: &mut Started) -> Result<KubernetesRuntime> {
    // The node pulls from the registry.
    started.up(Engine::Registry)?;
    let variables = started.up(Engine::Kubernetes)?.variables()?;
    let value = |name: &str| {
        variables
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .with_context(|| format!("the cluster does not report {name}"))
    };
    let options = KubernetesOptions::new(Scope::new("demo")?)
        .kubeconfig(value("RUNTIME_TEST_KUBECONFIG_STATS")?)
        .namespace(value("RUNTIME_TEST_NAMESPACE")?)
        .stats(StatsSource::NodeProxy);
    Ok(KubernetesRuntime::connect(options).await?)
}

/// Returns an image of the test registry, which requires a password; no other registry is needed.
fn image(started: &mut Started) -> Result<Image> {
    let registry = started.up(Engine::Registry)?;
    let variables = registry.variables()?;
    let value = |name: &str| {
        variables
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .with_context(|| format!("the registry does not report {name}"))
    };
    let reference = format!("{}/{LAYERS}", value("RUNTIME_TEST_REGISTRY")?);
    let auth = RegistryAuth::new(
        value("RUNTIME_TEST_REGISTRY_USER")?,
        value("RUNTIME_TEST_REGISTRY_PASSWORD")?,
    );
    Ok(Image::new(reference).auth(auth))
}

async fn pull(runtime: &dyn Runtime, image: &Image) -> Result<()> {
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template(
        "pull       {prefix:12} [{bar:30}] {bytes:>10} of {total_bytes:10}",
    )?
    .progress_chars("=> ");
    let mut layers: Vec<(String, ProgressBar)> = Vec::new();
    let mut events =
        runtime.pull_image(image, PullOptions::default().policy(PullPolicy::Always)).await?;
    while let Some(event) = events.next().await {
        match event? {
            PullEvent::Layer { id, current, total } => {
                let at = layers.iter().position(|(known, _)| *known == id).unwrap_or_else(|| {
                    let bar = bars.add(ProgressBar::new(total.unwrap_or(current)));
                    bar.set_style(style.clone());
                    bar.set_prefix(id.chars().take(12).collect::<String>());
                    layers.push((id, bar));
                    layers.len() - 1
                });
                let bar = &layers[at].1;
                if let Some(total) = total {
                    bar.set_length(total);
                }
                bar.set_position(current);
            }
            PullEvent::LayerDone { id } => {
                if let Some((_, bar)) = layers.iter().find(|(known, _)| *known == id) {
                    bar.abandon();
                }
            }
            PullEvent::Done(summary) => {
                for (_, bar) in &layers {
                    bar.abandon();
                }
                println!("pulled     {}", summary.resolved.unwrap_or(summary.requested));
            }
            _ => {}
        }
    }
    Ok(())
}

async fn show(container: &dyn Container) -> Result<()> {
    container.start().await?;
    println!("started");
    let mut logs = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    let mut measure = tokio::time::interval(Duration::from_millis(400));
    let mut last: Option<ContainerStats> = None;
    loop {
        tokio::select! {
            record = logs.next() => {
                let Some(record) = record else { break };
                let record = record?;
                print!("{:10} {}", record.stream, String::from_utf8_lossy(&record.bytes));
            }
            _ = measure.tick() => {
                // The container may exit between two measurements; the last successful one is kept.
                if let Ok(stats) = container.stats_once().await {
                    last = Some(stats);
                }
            }
        }
    }
    match last {
        Some(stats) => println!("stats      {}", line(&stats)),
        None => println!("stats      the container exited before a measurement"),
    }
    let exit = container.wait().await?;
    println!("exit       {exit}");
    if exit.code != Some(7) {
        bail!("expected the container to exit with code 7");
    }
    Ok(())
}

fn line(stats: &ContainerStats) -> String {
    let bytes = |value: Option<u64>| {
        value.map_or_else(|| "-".to_owned(), |bytes| indicatif::BinaryBytes(bytes).to_string())
    };
    let percent =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}%"));
    format!(
        "cpu {} of its limit, memory {} ({}), network {} in, {} out",
        percent(stats.cpu_percent),
        bytes(stats.memory_bytes),
        percent(stats.memory_percent),
        bytes(stats.network_rx_bytes),
        bytes(stats.network_tx_bytes),
    )
}
