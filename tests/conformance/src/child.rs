//! Second process that creates a container and is killed, for the recovery cases.

use std::process::Stdio;

use runtime_core::{ContainerId, ContainerSpec, Image, RegistryAuth, Scope};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::failure::fail;
use crate::{Context, Failure, Subject};

const SCOPE: &str = "RUNTIME_CONFORMANCE_CHILD_SCOPE";

/// Returns the scope to use if this process is the child.
pub(crate) fn scope() -> Option<String> {
    std::env::var(SCOPE).ok()
}

/// Runs the child: starts a container, prints its id and waits to be killed.
pub(crate) async fn run(subject: &dyn Subject, scope: &str) -> Result<(), Failure> {
    let registry = subject.registry();
    let image = Image::new(subject.images().busybox)
        .auth(RegistryAuth::new(registry.username, registry.password));
    let runtime = subject.connect(&Scope::new(scope)?).await?;
    let spec = ContainerSpec::new(image).command([
        "sh",
        "-c",
        "trap 'exit 7' TERM; echo from the child; sleep 3600 & wait",
    ]);
    let container = runtime.create_container(&spec).await?;
    container.start().await?;
    println!("{}", container.id());
    std::future::pending().await
}

/// Starts a container in the scope of `t` from a child process, kills the child and returns the id.
pub(crate) async fn container_of_a_killed_process(t: &Context) -> Result<ContainerId, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .env(SCOPE, t.scope().as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let Some(stdout) = child.stdout.take() else { fail!("the child has no output") };
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).await?;
    child.kill().await?;
    match line.trim() {
        "" => fail!("the child did not start a container"),
        id => Ok(ContainerId::new(id)),
    }
}
