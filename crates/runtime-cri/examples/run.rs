//! Runs a command in a container: `run IMAGE COMMAND...`.
//!
//! The endpoint is `CONTAINER_RUNTIME_ENDPOINT`, or the default socket of containerd or CRI-O.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command prints its output")]
use futures_util::StreamExt;
use runtime_core::{Container, ContainerSpec, Follow, LogOptions, Runtime, Scope};
use runtime_cri::{CriOptions, CriRuntime};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let image = arguments.next().ok_or("usage: run IMAGE COMMAND...")?;
    let runtime = CriRuntime::connect(CriOptions::new(Scope::new("example")?)).await?;
    for warning in runtime.health().await?.warnings {
        eprintln!("{warning}");
    }
    let spec = ContainerSpec::new(image).command(arguments);
    let container = runtime.create_container(&spec).await?;
    container.start().await?;
    let mut logs = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    while let Some(record) = logs.next().await {
        let record = record?;
        print!("{} {}", record.stream, String::from_utf8_lossy(&record.bytes));
    }
    println!("{}", container.wait().await?);
    container.remove().await?;
    runtime.close().await?;
    Ok(())
}
