//! States from created to running to exited, and the operations that each state refuses.

use std::collections::BTreeSet;

use runtime_core::{
    Capability, ContainerInfo, ContainerSpec, ContainerStatus, ErrorKind, ExitReason, LogOptions,
    Signal, StartOutcome, StopOptions,
};

use crate::case::cases;
use crate::expect::{recent, refused};
use crate::failure::fail;
use crate::{Context, Failure, Outcome};

cases! { "lifecycle":
    times_in_order [Wait];
    exit_codes [Wait];
    start_twice [Wait, Logs, Kill];
    start_from_many_tasks [Wait, Logs];
    start_after_the_exit [Wait, Logs];
    command_not_found [Wait];
    not_executable [Wait];
    entrypoint_and_arguments_of_the_image [Wait, Logs];
    arguments_replace_the_images [Wait, Logs];
    no_arguments_replace_the_images [EmptyArguments, Logs, Wait];
    no_arguments_and_no_entrypoint [EmptyArguments];
    command_replaces_the_entrypoint [Wait, Logs];
    image_defaults_are_kept [Wait, Logs];
    image_defaults_are_overridden [User, WorkingDir, Wait, Logs];
    info_round_trips [Wait];
    kill_sends_any_signal [Kill, Logs, Wait];
    kill_before_the_start [Kill];
    kill_after_the_end [Kill, Wait];
    remove_created [];
    remove_running [Wait];
    remove_exited [Wait];
    remove_twice [];
    remove_from_many_tasks [];
    everything_after_the_remove [];
}

async fn times_in_order(t: Context) -> Outcome {
    let container = t.create(&t.script("sleep 1.2; exit 3")).await?;
    let created = container.info().await?;
    container.start().await?;
    let running = container.info().await?;
    let exit = container.wait().await?;
    let exited = container.info().await?;

    assert_eq!(created.status, ContainerStatus::Created);
    assert_eq!(exited.status, ContainerStatus::Exited);
    assert_eq!((created.created_at, running.created_at), (exited.created_at, exited.created_at));
    if running.status == ContainerStatus::Running {
        assert_eq!((running.ended_at, running.exit), (None, None));
        assert_eq!(running.started_at, exited.started_at);
    }
    let created_at = recent("the creation time", exited.created_at)?;
    let started_at = recent("the start time", exited.started_at)?;
    let ended_at = recent("the end time", exited.ended_at)?;
    assert!(created_at <= started_at && started_at <= ended_at);
    // An engine under load may record the start late, and may count whole seconds.
    assert!(ended_at.duration_since(started_at)?.as_millis() >= 100, "it ran for 1.2 s");
    assert_eq!(exit.ended_at, Some(ended_at));
    assert_eq!(exited.exit, Some(exit));
    Ok(())
}

async fn exit_codes(t: Context) -> Outcome {
    let ends = async |code: i32| -> Result<_, Failure> {
        Ok(t.run(&t.script(&format!("exit {code}"))).await?.1)
    };
    let (zero, one, other, highest) = tokio::join!(ends(0), ends(1), ends(42), ends(255));
    for (code, exit) in [(0, zero?), (1, one?), (42, other?), (255, highest?)] {
        assert_eq!((exit.code, exit.reason, exit.signal), (Some(code), ExitReason::Exited, None));
        assert_eq!(exit.success(), code == 0);
        recent("the end time", exit.ended_at)?;
    }
    Ok(())
}

/// Asserts that a container which writes one line per run has run exactly once.
async fn ran_once(t: &Context, container: &dyn runtime_core::Container) -> Outcome {
    let text = t.text(container).await?;
    if text.matches("ran").count() != 1 {
        fail!("it has not run once: {text:?}");
    }
    Ok(())
}

async fn start_twice(t: Context) -> Outcome {
    let container = t.create(&t.script("echo ran ready; sleep 3600")).await?;
    assert_eq!(container.start().await?, StartOutcome::Started);
    t.until_logged(&*container, "ready").await?;
    let before = container.info().await?;
    assert_eq!(container.start().await?, StartOutcome::AlreadyStarted);
    assert_eq!(container.info().await?.started_at, before.started_at);
    container.kill(Signal::KILL).await?;
    container.wait().await?;
    ran_once(&t, &*container).await
}

async fn start_from_many_tasks(t: Context) -> Outcome {
    let container = t.create(&t.script("echo ran")).await?;
    let outcomes = futures_util::future::join_all((0..8).map(|_| container.start())).await;
    let outcomes: Vec<_> = outcomes.into_iter().collect::<Result<_, _>>()?;
    let started = outcomes.iter().filter(|outcome| **outcome == StartOutcome::Started).count();
    assert_eq!(started, 1, "{outcomes:?}");
    container.wait().await?;
    ran_once(&t, &*container).await
}

async fn start_after_the_exit(t: Context) -> Outcome {
    let (container, exit) = t.run(&t.script("echo ran; exit 5")).await?;
    let before = container.info().await?;
    assert_eq!(container.start().await?, StartOutcome::AlreadyStarted);
    // From another connection, too.
    if t.has(Capability::Reattach) {
        let other = t.connect().await?.container(container.id()).await?;
        assert_eq!(other.start().await?, StartOutcome::AlreadyStarted);
    }
    let after = container.info().await?;
    assert_eq!(
        (after.status, after.started_at, after.ended_at),
        (ContainerStatus::Exited, before.started_at, before.ended_at)
    );
    assert_eq!(container.wait().await?, exit);
    ran_once(&t, &*container).await
}

async fn cannot_start(t: &Context, spec: &ContainerSpec) -> Outcome {
    let container = t.create(spec).await?;
    refused(container.start().await, ErrorKind::InvalidArgument)?;
    let info = container.info().await?;
    assert_eq!(info.status, ContainerStatus::Exited);
    let Some(exit) = info.exit else { fail!("there is no exit in the info") };
    assert_eq!((exit.reason, exit.success()), (ExitReason::StartFailed, false));
    assert_eq!(container.wait().await?.reason, ExitReason::StartFailed);
    assert_eq!(container.start().await?, StartOutcome::AlreadyStarted);
    container.remove().await?;
    Ok(())
}

async fn command_not_found(t: Context) -> Outcome {
    cannot_start(&t, &t.spec().command(["no-such-command", "--flag"])).await
}

async fn not_executable(t: Context) -> Outcome {
    cannot_start(&t, &t.spec().command(["/etc/passwd"])).await
}

fn entry(t: &Context) -> ContainerSpec {
    ContainerSpec::new(t.image(t.subject().images().entry))
}

async fn entrypoint_and_arguments_of_the_image(t: Context) -> Outcome {
    assert_eq!(t.output(&entry(&t)).await?, "entry default-argument\n");
    Ok(())
}

async fn arguments_replace_the_images(t: Context) -> Outcome {
    assert_eq!(t.output(&entry(&t).arguments(["a", "b c"])).await?, "entry a b c\n");
    Ok(())
}

async fn no_arguments_replace_the_images(t: Context) -> Outcome {
    assert_eq!(t.output(&entry(&t).arguments(Vec::<String>::new())).await?, "entry\n");
    Ok(())
}

async fn no_arguments_and_no_entrypoint(t: Context) -> Outcome {
    let nothing = t.spec().arguments(Vec::<String>::new());
    let created = t.runtime().create_container(&nothing).await;
    let error = refused(created, ErrorKind::InvalidArgument)?;
    assert_eq!(error.field(), Some("arguments"), "{error:?}");
    Ok(())
}

async fn command_replaces_the_entrypoint(t: Context) -> Outcome {
    assert_eq!(t.output(&entry(&t).command(["echo", "x"])).await?, "x\n");
    let both = entry(&t).command(["echo", "x"]).arguments(["y"]);
    assert_eq!(t.output(&both).await?, "x y\n");
    Ok(())
}

const DEFAULTS: [&str; 3] = ["sh", "-c", "pwd; id -un; echo $FROM_IMAGE"];

async fn image_defaults_are_kept(t: Context) -> Outcome {
    assert_eq!(t.output(&entry(&t).command(DEFAULTS)).await?, "/srv\nalice\nyes\n");
    Ok(())
}

async fn image_defaults_are_overridden(t: Context) -> Outcome {
    let spec = entry(&t).command(DEFAULTS).working_dir("/tmp").user("0").env("FROM_IMAGE", "no");
    assert_eq!(t.output(&spec).await?, "/tmp\nroot\nno\n");
    Ok(())
}

async fn info_round_trips(t: Context) -> Outcome {
    let container = t.create(&t.script("exit 42").label("a", "b").memory_if(&t)).await?;
    for _ in 0..2 {
        let info = container.info().await?;
        let json = serde_json::to_string(&info)?;
        assert_eq!(serde_json::from_str::<ContainerInfo>(&json)?, info);
        if container.start().await? == StartOutcome::Started {
            container.wait().await?;
        }
    }
    Ok(())
}

/// Extension that sets a memory limit if the engine supports one, so that the field is not empty.
trait MemoryIf {
    fn memory_if(self, t: &Context) -> Self;
}

impl MemoryIf for ContainerSpec {
    fn memory_if(self, t: &Context) -> Self {
        if t.has(Capability::MemoryLimit) { self.memory(64 << 20) } else { self }
    }
}

async fn kill_sends_any_signal(t: Context) -> Outcome {
    let script = "trap 'echo got USR1' USR1; trap 'echo got HUP; exit 6' HUP; echo ready; \
                  while :; do sleep 0.05; done";
    let container = t.ready(&t.script(script)).await?;
    container.kill(Signal::USR1).await?;
    t.until_logged(&*container, "got USR1").await?;
    assert_eq!(container.info().await?.status, ContainerStatus::Running);
    container.kill(Signal::HUP).await?;
    let exit = container.wait().await?;
    assert_eq!((exit.code, exit.reason), (Some(6), ExitReason::Exited));
    assert!(t.text(&*container).await?.ends_with("got USR1\ngot HUP\n"));
    Ok(())
}

async fn kill_before_the_start(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    refused(container.kill(Signal::KILL).await, ErrorKind::NotStarted)?;
    assert_eq!(container.info().await?.status, ContainerStatus::Created);
    assert_eq!(container.start().await?, StartOutcome::Started);
    Ok(())
}

async fn kill_after_the_end(t: Context) -> Outcome {
    let (container, exit) = t.run(&t.script("exit 3")).await?;
    refused(container.kill(Signal::KILL).await, ErrorKind::InvalidState)?;
    assert_eq!(container.info().await?.exit, Some(exit));
    Ok(())
}

async fn remove_created(t: Context) -> Outcome {
    t.create(&t.idle()).await?.remove().await?;
    t.nothing_left().await
}

/// Without grace: the container ignores TERM, and its grace is longer than a removal or a case may take. The
/// duration of the removal is not asserted, because a kubelet on a busy machine has taken half a minute to
/// end a container.
async fn remove_running(t: Context) -> Outcome {
    let container = t.ready(&t.idle().stop_grace(std::time::Duration::from_secs(3600))).await?;
    container.remove().await?;
    t.nothing_left().await
}

async fn remove_exited(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("exit 0")).await?;
    container.remove().await?;
    t.nothing_left().await
}

async fn remove_twice(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    container.remove().await?;
    let error = refused(container.remove().await, ErrorKind::NotFound)?;
    let subject = error.subject().unwrap_or_default();
    assert!([container.name(), container.id().as_str()].contains(&subject), "{subject}");
    Ok(())
}

async fn remove_from_many_tasks(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let removed = futures_util::future::join_all((0..4).map(|_| container.remove())).await;
    let mut kinds = BTreeSet::new();
    for removed in removed {
        match removed {
            Ok(()) => kinds.insert("removed"),
            Err(error) if error.kind() == ErrorKind::NotFound => kinds.insert("not found"),
            Err(error) => fail!("{error}"),
        };
    }
    assert!(kinds.contains("removed"));
    t.nothing_left().await
}

async fn everything_after_the_remove(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    container.remove().await?;
    let gone = ErrorKind::NotFound;
    refused(container.info().await, gone)?;
    refused(container.start().await, gone)?;
    refused(container.stop(StopOptions::default()).await, gone)?;
    if t.has(Capability::Wait) {
        refused(container.wait().await, gone)?;
    }
    if t.has(Capability::Kill) {
        refused(container.kill(Signal::KILL).await, gone)?;
    }
    if t.has(Capability::Logs) {
        refused(container.logs(LogOptions::default()).await, gone)?;
    }
    if t.has(Capability::StatsMemory) {
        refused(container.stats_once().await, gone)?;
    }
    if t.has(Capability::Reattach) {
        refused(t.runtime().container(container.id()).await, gone)?;
    }
    Ok(())
}
