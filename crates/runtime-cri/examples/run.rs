//! Runs a command in a container: `run IMAGE COMMAND...`.
//!
//! The engine is the one of `CONTAINER_RUNTIME_ENDPOINT`, or containerd's or CRI-O's own socket.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]
use futures_util::StreamExt;
use runtime_core::{Container, ContainerSpec, Follow, LogOptions, Runtime, Scope};
use runtime_cri::{CriOptions, CriRuntime};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let image = words.next().ok_or("usage: run IMAGE COMMAND...")?;
    let runtime = CriRuntime::connect(CriOptions::new(Scope::new("example")?)).await?;
    for warning in runtime.health().await?.warnings {
        eprintln!("{warning}");
    }
    let spec = ContainerSpec::new(image).command(words);
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
