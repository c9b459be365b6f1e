//! Stops and removals of containers whose process has not run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime_conformance::BoxError;
use runtime_core::{
    Container, ContainerSpec, ContainerStatus, Deadlines, ErrorKind, Exit, ExitReason, Image,
    Mount, MountKind, RegistryAuth, Runtime as _, StopOptions, StopOutcome,
};
use runtime_k8s::KubernetesRuntime;
use serde_json::Value;
use test_support::PATIENCE;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::support::{Namespace, Outcome, is_unschedulable};

/// Time limit of a stop or a removal that has nothing to wait for.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Registry whose responses are withheld until they are released.
struct SlowRegistry {
    address: String,
    release: watch::Sender<bool>,
    connections: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl SlowRegistry {
    /// Serves on loopback, in front of the registry at this address.
    async fn start(registry: String) -> Result<Self, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (release, released) = watch::channel(false);
        let (count, connections) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                let (registry, mut released) = (registry.clone(), released.clone());
                passing.spawn(async move {
                    if released.wait_for(|released| *released).await.is_ok()
                        && let Ok(mut server) = TcpStream::connect(registry).await
                    {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Ok(Self { address, release, connections, _tasks: tasks })
    }
}

fn waits(pod: &Value, reasons: &[&str]) -> bool {
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
    waiting.as_str().is_some_and(|reason| reasons.contains(&reason))
}

#[track_caller]
fn never_ran(exit: &Exit) {
    assert_eq!((exit.reason, exit.code), (ExitReason::StoppedByUs, None), "{exit:?}");
}

async fn is_stopped(container: &Arc<dyn Container>) -> Outcome {
    let begun = Instant::now();
    let outcome = container.stop(StopOptions::default()).await?;
    let StopOutcome::Stopped(exit) = outcome else { panic!("{outcome:?}") };
    never_ran(&exit);
    assert!(begun.elapsed() < AT_ONCE, "the stop took {:?}", begun.elapsed());
    let info = container.info().await?;
    assert_eq!((info.status, info.started_at), (ContainerStatus::Exited, None), "{info:?}");
    never_ran(&container.wait().await?);
    Ok(())
}

/// A node that pulls an image does not handle a stop: the stop returns an error and remains in effect. A
/// removal ends the container at once, and it never runs, although the pull succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn stop_during_pull_holds_and_removed_container_never_runs() -> Outcome {
    let namespace = Namespace::new(Vec::new()).await?;
    let registry = &namespace.environment.registry;
    let mut slow = SlowRegistry::start(registry.address.clone()).await?;
    let image = test_support::push_image(&format!("test/{}:1", namespace.name)).await?;
    let image = image.replacen(&registry.address, &slow.address, 1);
    let folder = tempfile::tempdir_in(&namespace.environment.shared)?;
    let spec = |name: &str| {
        let login = RegistryAuth::new(&registry.username, &registry.password);
        let script = format!("trap 'exit 6' TERM; echo > /mounted/{name}; sleep 3600 & wait");
        ContainerSpec::new(Image::new(&image).auth(login))
            .stop_grace(Duration::from_secs(2))
            .command(["sh", "-c", &script])
            .mount(Mount::new(folder.path(), "/mounted").kind(MountKind::Directory))
    };
    let is_starting = |pod: &Value| waits(pod, &["ContainerCreating"]);
    let (removed, stopped) = (spec("removed"), spec("stopped"));
    let (removed, stopped) = tokio::try_join!(
        namespace.starting(&removed, is_starting),
        namespace.starting(&stopped, is_starting),
    )?;
    slow.connections.wait_for(|count| *count > 0).await?;

    let mut deadlines = Deadlines::default();
    deadlines.stop_margin = Duration::from_secs(1);
    let hasty = KubernetesRuntime::connect(namespace.options().deadlines(deadlines)).await?;
    let handle = hasty.container(stopped.id()).await?;
    let error = handle.stop(StopOptions::default()).await.expect_err("the node pulls");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    let words = error.message().unwrap_or_default();
    assert!(words.contains("the stop continues, and `remove` ends"), "{error:?}");
    is_removed(removed).await?;
    slow.release.send_replace(true);
    let exit = timeout(PATIENCE, stopped.wait()).await??;
    assert_eq!(exit.reason, ExitReason::StoppedByUs, "{exit:?}");
    // The node may start the process before it sees the stop, or see the stop first.
    let has_run = folder.path().join("stopped").exists();
    assert!(exit.code.is_some() || !has_run, "a process that has run has no code: {exit:?}");
    assert!(!folder.path().join("removed").exists(), "a removed container has run");
    is_removed(stopped).await?;
    hasty.close().await?;
    namespace.finish().await
}

async fn is_removed(container: Arc<dyn Container>) -> Outcome {
    let begun = Instant::now();
    container.remove().await?;
    assert!(begun.elapsed() < AT_ONCE, "the removal took {:?}", begun.elapsed());
    let error = container.info().await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    Ok(())
}

/// A container whose image cannot be pulled, one that fits no node and one that was never started are stopped
/// and removed at once, and no node has them.
#[tokio::test(flavor = "multi_thread")]
async fn stop_and_removal_before_the_process_are_immediate() -> Outcome {
    let namespace = Namespace::new(Vec::new()).await?;
    let spec = namespace.script("sleep 3600");
    let missing = ContainerSpec::new(format!(
        "{}/test/busybox:no-such-tag",
        namespace.environment.registry.address
    ));
    let huge = spec.clone().cpu_count(1000.0);
    let pulls = |pod: &Value| waits(pod, &["ErrImagePull", "ImagePullBackOff"]);
    let (missing, huge) = tokio::try_join!(
        namespace.starting(&missing, pulls),
        namespace.starting(&huge, is_unschedulable),
    )?;
    let created = namespace.runtime.create_container(&spec).await?;
    assert_eq!(created.stop(StopOptions::default()).await?, StopOutcome::NotStarted);
    tokio::try_join!(is_stopped(&missing), is_stopped(&huge))?;
    for pod in namespace.pods().await? {
        let has_node = !pod["spec"]["nodeName"].is_null();
        let is_over = pod["status"]["phase"] == "Failed";
        assert_eq!(has_node, is_over, "a node holds something for it: {pod}");
    }
    for container in [created, missing, huge] {
        is_removed(container).await?;
    }
    assert!(namespace.pods().await?.is_empty());
    namespace.finish().await
}
