//! A kubelet that uses the same engine.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use runtime_conformance::BoxError;
use runtime_core::Runtime;
use test_support::Connection as _;

use super::support::{Engine, Outcome};

async fn warned_of(engine: &Engine) -> Result<bool, BoxError> {
    let warnings = engine.runtime.health().await?.warnings;
    Ok(warnings.iter().any(|warning| warning.contains("kubelet")))
}

/// The kubelet is a process with that name and the socket of this engine in its arguments.
#[tokio::test]
async fn health_warns_of_a_kubelet() -> Outcome {
    let engine = Engine::of_environment().await?;
    assert!(!warned_of(&engine).await?, "there is none");
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("kubelet");
    symlink("/bin/sh", &program)?;
    let run = |socket: &str| {
        let socket = format!("--container-runtime-endpoint={socket}");
        let mut command = Command::new(&program);
        // Runs until its input ends.
        command.args(["-c", "read -r _", &socket]).stdin(Stdio::piped()).spawn()
    };
    let mut other = run("unix:///run/other.sock")?;
    assert!(!warned_of(&engine).await?, "it has an engine of its own");
    let mut kubelet = run(&engine.environment.endpoint)?;
    assert!(warned_of(&engine).await?);
    for process in [&mut kubelet, &mut other] {
        drop(process.stdin.take());
        process.wait()?;
    }
    assert!(!warned_of(&engine).await?, "it has gone");
    engine.finish().await
}
