//! The first program of the README.
#![allow(clippy::print_stdout)]

use futures_util::StreamExt;
use runtime_core::{ContainerSpec, Follow, LogOptions, Runtime, Scope};
use runtime_docker::{DockerOptions, DockerRuntime};

#[tokio::main]
async fn main() -> Result<(), runtime_core::Error> {
    let image = std::env::args().nth(1).unwrap_or_else(|| "busybox".to_owned());
    let engine = DockerRuntime::connect(DockerOptions::new(Scope::new("hello")?)).await?;
    let spec = ContainerSpec::new(image).command(["echo", "hello, world"]).memory(64 << 20);
    let container = engine.create_container(&spec).await?;
    container.start().await?;
    let mut logs = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    while let Some(record) = logs.next().await {
        let record = record?;
        print!("{}: {}", record.stream, String::from_utf8_lossy(&record.bytes));
    }
    println!("{}", container.wait().await?);
    container.remove().await
}
