//! Processes, sessions, files and ports that belong to other programs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime_conformance::BoxError;
use runtime_core::{
    Capability, ContainerExt, ErrorKind, ExecOptions, LogOptions, Runtime, Signal, StopOptions,
};
use test_support::{Connection as _, relay};

use super::support::{Engine, Outcome, scope};

#[tokio::test(flavor = "multi_thread")]
async fn engine_behind_a_relay_shares_nothing_with_this_host() -> Outcome {
    let engine = Engine::of_environment().await?;
    let container = engine.start(&engine.idle().stop_signal(Signal::INT)).await?;
    let folder = tempfile::tempdir()?;
    let endpoint = relay(folder.path(), &engine.environment.endpoint)?;
    let far = Engine::at(engine.environment.clone(), engine.runtime.scope().clone(), |options| {
        options.endpoint(endpoint)
    })
    .await?;
    let can = far.runtime.capabilities();
    assert!(!can.kill && !can.stop_signal && !can.exec_signal && !can.shared_memory && !can.logs);
    let same = far.runtime.container(container.id()).await?;
    let error = same.kill(Signal::KILL).await.unwrap_err();
    assert_eq!(error.capability(), Some(Capability::Kill), "{error:?}");
    let error = same.stop(StopOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    let error = same.logs(LogOptions::default()).await.err().ok_or("there are logs")?;
    assert_eq!(error.capability(), Some(Capability::Logs), "{error:?}");
    assert!(container.info().await?.exit.is_none(), "it runs on");
    engine.finish().await
}

/// Two connections share no state, like two programs.
#[tokio::test(flavor = "multi_thread")]
async fn signal_reaches_the_exec_of_this_connection_alone() -> Outcome {
    let one = Engine::of_environment().await?;
    let container = one.start(&one.idle()).await?;
    let two =
        Engine::at(one.environment.clone(), one.runtime.scope().clone(), |options| options).await?;
    let same = two.runtime.container(container.id()).await?;
    for round in 0..6 {
        let command = if round % 2 == 0 { ["sleep", "300"] } else { ["sleep", "301"] };
        let (first, second) = tokio::join!(
            container.exec(ExecOptions::new(command)),
            same.exec(ExecOptions::new(["sleep", "300"])),
        );
        let (first, second) = (first?, second?);
        first.control.signal(Signal::KILL).await?;
        let ended = tokio::time::timeout(Duration::from_secs(30), first.control.wait()).await;
        assert_eq!(ended??.code, 137, "round {round}: the signal hit another exec");
        second.control.signal(Signal::TERM).await?;
        let ended = tokio::time::timeout(Duration::from_secs(30), second.control.wait()).await;
        assert_eq!(ended??.code, 143, "round {round}: another exec's signal hit it");
    }
    one.finish().await
}

/// Collects the modes of a directory and of everything below it.
fn modes(directory: &Path, found: &mut BTreeMap<PathBuf, u32>) -> Result<(), BoxError> {
    let entry = fs::symlink_metadata(directory)?;
    found.insert(directory.to_owned(), entry.mode());
    if entry.is_dir() {
        for entry in fs::read_dir(directory)? {
            modes(&entry?.path(), found)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_made_on_the_host_is_closed_to_others() -> Outcome {
    let folder = tempfile::tempdir_in(super::support::shared_dir()?)?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let (logs, state) = (folder.path().join("logs"), folder.path().join("state"));
    let engine =
        Engine::of_environment_with(|options| options.log_dir(&logs).state_dir(&state)).await?;
    let spec = engine.script("echo said; exec sleep 1000").shared_memory(1 << 20).user("1000");
    let container = engine.start(&spec).await?;
    // The path on the host is closed, and the mount inside is not.
    let write = container.exec(ExecOptions::new(["sh", "-c", "echo x > /dev/shm/x"])).await?;
    assert_eq!(write.control.wait().await?.code, 0);
    let session = container.exec(ExecOptions::new(["sleep", "300"])).await?;
    session.control.signal(Signal::KILL).await?;
    engine.runtime.rotate_logs(1, None).await?;
    container.stop(StopOptions::default().grace(Duration::ZERO)).await?;
    let other = engine.runtime.create_container(&engine.idle()).await?;
    other.remove().await?;
    let mut found = BTreeMap::new();
    modes(&logs, &mut found)?;
    modes(&state, &mut found)?;
    for (path, mode) in &found {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The engine creates the log files. The users of a container read its /etc/hosts, but the directories
        // above it are closed.
        let is_open =
            name.starts_with("container.log") || (name == "hosts" && mode & 0o777 == 0o644);
        println!("{mode:o} {}", path.display());
        assert!(mode & 0o077 == 0 || is_open, "{mode:o} {}", path.display());
    }
    assert!(found.keys().any(|path| path.ends_with("hosts")), "{found:?}");
    assert!(found.keys().any(|path| path.ends_with("stopped")), "{found:?}");
    assert!(found.keys().any(|path| path.extension().is_some_and(|kind| kind == "lives")));
    container.remove().await?;
    assert_eq!(fs::read_dir(&logs)?.count(), 0, "the log directory is left");
    let of_scope = state.join(engine.runtime.scope().as_str());
    assert!(!of_scope.exists(), "the state directory is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_create_has_left_nothing_when_it_returns() -> Outcome {
    let engine = Engine::of_environment().await?;
    let error = engine.runtime.create_container(&engine.idle().user("nosuchuser")).await;
    assert_eq!(error.err().ok_or("it was created")?.field(), Some("user"));
    assert_eq!(engine.left().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_with_other_directories_leaves_nothing() -> Outcome {
    let folder = tempfile::tempdir_in(super::support::shared_dir()?)?;
    let at = |name: &str| folder.path().join(name);
    let scope = scope();
    let environment = cri_tests::Environment::read()?;
    let engine = Engine::at(environment.clone(), scope.clone(), |options| {
        options.log_dir(at("logs")).state_dir(at("state"))
    })
    .await?;
    let spec = engine.idle().shared_memory(1 << 20);
    let container = engine.start(&spec).await?;
    assert_eq!(fs::read_dir(at("logs").join(scope.as_str()))?.count(), 1);
    let other = Engine::at(environment, scope.clone(), |options| options).await?;
    other.runtime.container(container.id()).await?.remove().await?;
    for left in ["logs", "state"] {
        assert!(!at(left).join(scope.as_str()).exists(), "{left}");
    }
    other.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn published_ports_are_not_those_of_outgoing_connections() -> Outcome {
    let engine = Engine::of_environment().await?;
    let container = engine.start(&engine.idle().tcp_port(80).tcp_port(81)).await?;
    let ports = container.info().await?.tcp_ports;
    assert_eq!(ports.len(), 2);
    assert!(ports.iter().all(|port| (20_000..30_000).contains(&port.host_port)), "{ports:?}");
    container.ensure_removed().await?;
    engine.finish().await
}
