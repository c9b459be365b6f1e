//! Stop and remove: the exit code and the logs remain available under every policy of the cluster.

use futures_util::StreamExt as _;
use k8s_tests::fake::{FakeNode, FakeServer, Received, Recording, Refusal};
use runtime_core::{
    ContainerStatus, ErrorKind, EventKind, EventsOptions, Exit, ExitReason, ListOptions,
    Runtime as _, StopOptions, StopOutcome,
};
use runtime_k8s::{KubernetesRuntime, StopMethod};
use serde_json::json;

use super::support::{cluster, spec, starting};

fn refuse_images(server: &FakeServer) {
    server.refuse(
        Received::changes_image,
        Refusal::webhook("images.test", "image \"!stopped\" is not a reference"),
    );
}

fn refuse_deadlines(server: &FakeServer) {
    server.refuse(
        |request| request.sets("/activeDeadlineSeconds", &json!(1)),
        Refusal::policy("p", "deadlines.test", "no deadline may change"),
    );
}

fn patches(server: &FakeServer) -> (usize, usize) {
    let all = server.received();
    let images = all.iter().filter(|request| request.changes_image()).count();
    let deadline = json!(1);
    (images, all.iter().filter(|r| r.sets("/activeDeadlineSeconds", &deadline)).count())
}

#[tokio::test]
async fn refused_image_is_replaced_by_deadline_and_remembered() {
    for code in [42, 0, 137] {
        let (server, runtime) = cluster("1.36", FakeNode::default().exit_code(code)).await;
        refuse_images(&server);
        for round in 0..2 {
            let container = runtime.create_container(&spec()).await.unwrap();
            container.start().await.unwrap();
            server.take_received();
            let outcome = container.stop(StopOptions::default()).await.unwrap();
            let StopOutcome::Stopped(exit) = outcome else { panic!("{outcome:?}") };
            assert_eq!((exit.code, exit.reason), (Some(code), ExitReason::StoppedByUs));
            assert_eq!(container.info().await.unwrap().exit, Some(exit));
            assert_eq!(patches(&server), (usize::from(round == 0), 1), "{round}");
        }
        runtime.close().await.unwrap();
    }
}

#[tokio::test]
async fn policy_refusal_of_any_shape_leads_to_deadline() {
    let bare = |code: u16, reason: &str| {
        Refusal::new(code, reason, "admission webhook \"images.test\" denied the request: no")
    };
    for refusal in [
        bare(403, "Forbidden"),
        bare(400, ""),
        bare(400, "BadRequest"),
        bare(422, "Invalid"),
        bare(500, ""),
        Refusal::policy("p", "images.test", "no"),
        Refusal::new(
            403,
            "Forbidden",
            "pods \"p\" is forbidden: images.test: image is not allowed",
        ),
    ] {
        let (server, runtime) = cluster("1.36", FakeNode::default().exit_code(3)).await;
        let words = refusal.status.clone();
        server.refuse(Received::changes_image, refusal);
        let container = runtime.create_container(&spec()).await.unwrap();
        container.start().await.unwrap();
        let outcome = container.stop(StopOptions::default()).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{words}: {error:?}"));
        assert!(matches!(outcome, StopOutcome::Stopped(exit) if exit.code == Some(3)), "{words}");
        runtime.close().await.unwrap();
    }
}

#[tokio::test]
async fn stop_without_any_way_names_the_policy() {
    for (version, both) in [("1.20", false), ("1.36", true)] {
        let (server, runtime) = cluster(version, FakeNode::default()).await;
        refuse_images(&server);
        if both {
            refuse_deadlines(&server);
        }
        let container = runtime.create_container(&spec()).await.unwrap();
        container.start().await.unwrap();
        let error = container.stop(StopOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{version} {error:?}");
        let words = error.message().unwrap();
        let policy = if both { "deadlines.test" } else { "images.test" };
        assert!(words.contains(policy) || words.contains("no deadline may change"), "{error:?}");
        assert!(words.contains("`remove` still ends it"), "{error:?}");
        // The container continues to run, and is not reported as stopped.
        assert_eq!(container.info().await.unwrap().status, ContainerStatus::Running);
        container.remove().await.unwrap();
        assert!(server.pods().is_empty());
        runtime.close().await.unwrap();
    }
}

#[tokio::test]
async fn missing_right_is_not_taken_for_a_policy() {
    let (server, runtime) = cluster("1.36", FakeNode::default()).await;
    let container = runtime.create_container(&spec()).await.unwrap();
    container.start().await.unwrap();
    server.refuse(
        Received::patches_pod,
        Refusal::new(
            403,
            "Forbidden",
            "pods \"p\" is forbidden: User \"u\" cannot patch resource \"pods\" in API group \"\" in the namespace \"fake\"",
        ),
    );
    server.take_received();
    let error = container.stop(StopOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert_eq!(patches(&server).1, 0, "a deadline needs the same right");
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn chosen_method_is_the_only_one() {
    let server = FakeServer::with_node("1.36", FakeNode::default().exit_code(9)).await;
    for (method, expected) in [(StopMethod::Image, (1, 0)), (StopMethod::Deadline, (0, 1))] {
        let runtime =
            KubernetesRuntime::connect(server.options().stop_method(method)).await.unwrap();
        let container = runtime.create_container(&spec()).await.unwrap();
        container.start().await.unwrap();
        server.take_received();
        container.stop(StopOptions::default()).await.unwrap();
        assert_eq!(patches(&server), expected, "{method:?}");
        assert_eq!(container.wait().await.unwrap().code, Some(9));
        runtime.close().await.unwrap();
    }
    let old = FakeServer::start("1.20").await;
    let options = old.options().stop_method(StopMethod::Deadline);
    let error = KubernetesRuntime::connect(options).await.unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("stop_method")));
}

/// Asserts that every call and connection returns the same exit.
async fn is_stopped_before_start(
    server: &FakeServer,
    runtime: &KubernetesRuntime,
    container: &std::sync::Arc<dyn runtime_core::Container>,
) {
    let expected = |exit: &Exit| exit.reason == ExitReason::StoppedByUs && exit.code.is_none();
    let wait = container.wait().await.unwrap();
    assert!(expected(&wait), "{wait:?}");
    let info = container.info().await.unwrap();
    assert_eq!((info.status, info.started_at), (ContainerStatus::Exited, None));
    assert_eq!(info.exit.as_ref(), Some(&wait));
    let listed = runtime.list_containers(ListOptions::default()).await.unwrap();
    assert_eq!(listed.len(), 1);
    let mut options = server.options();
    options.scope = runtime.scope().clone();
    let other = KubernetesRuntime::connect(options).await.unwrap();
    let again = other.container(container.id()).await.unwrap();
    assert_eq!(again.info().await.unwrap().exit, Some(wait.clone()));
    assert_eq!(again.wait().await.unwrap(), wait);
    other.close().await.unwrap();
}

#[tokio::test]
async fn stop_before_scheduling_ends_at_once_and_nothing_runs_later() {
    for version in ["1.20", "1.36"] {
        let (server, runtime) = cluster(version, FakeNode::default().schedules(false)).await;
        let mut events = runtime.events(EventsOptions::default()).await.unwrap();
        let (container, start) = starting(&runtime).await;
        let outcome = container.stop(StopOptions::default()).await.unwrap();
        assert!(matches!(outcome, StopOutcome::Stopped(_)), "{version} {outcome:?}");
        start.await.unwrap();
        is_stopped_before_start(&server, &runtime, &container).await;
        let pod = server.only_pod();
        assert_eq!(pod["spec"]["containers"][0]["image"], "!stopped", "{version}");
        assert_eq!(pod["spec"]["activeDeadlineSeconds"], 1, "{version}");
        // Now there is a node that fits.
        server.set_node(FakeNode::default());
        let pod = server.only_pod();
        assert_eq!(pod["status"]["phase"], "Failed", "{version}");
        is_stopped_before_start(&server, &runtime, &container).await;
        let kinds: Vec<EventKind> = [
            events.next().await.unwrap().unwrap().kind,
            events.next().await.unwrap().unwrap().kind,
        ]
        .into();
        assert!(
            matches!(&kinds[..], [EventKind::Created, EventKind::Exited(_)]),
            "{version} {kinds:?}"
        );
        runtime.close().await.unwrap();
    }
}

#[tokio::test]
async fn recorded_stop_before_scheduling_is_one_exit_throughout() {
    let server = FakeServer::start("1.36").await;
    let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
    let (container, start) = starting(&runtime).await;
    let recording = Recording::read("stop-before-scheduled-image-then-node");
    let mut play = server.play(&server.only_pod_name(), &recording);
    play.until(|pod| pod["spec"]["activeDeadlineSeconds"].is_null());
    container.stop(StopOptions::default()).await.unwrap();
    start.await.unwrap();
    while let Some(pod) = play.step() {
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            break;
        }
        is_stopped_before_start(&server, &runtime, &container).await;
    }
    runtime.close().await.unwrap();
}

/// The node pulls, and reports nothing else.
#[tokio::test]
async fn stop_during_pull_ends_and_nothing_runs() {
    let (server, runtime) = cluster("1.36", FakeNode::default().starts(false)).await;
    let (container, start) = starting(&runtime).await;
    container.stop(StopOptions::default()).await.unwrap();
    start.await.unwrap();
    let pod = server.only_pod();
    assert_eq!(pod["spec"]["containers"][0]["image"], "!stopped");
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], 1);
    is_stopped_before_start(&server, &runtime, &container).await;
    runtime.close().await.unwrap();
}

/// On an old server a deadline would lose the code of a process that the node has just started: the pod gets
/// the deadline only when the node has reported that no process runs.
#[tokio::test]
async fn stop_on_node_of_old_server_sets_deadline_last() {
    let (server, runtime) = cluster("1.20", FakeNode::default().starts(false)).await;
    let (container, start) = starting(&runtime).await;
    container.stop(StopOptions::default()).await.unwrap();
    start.await.unwrap();
    let deadline = json!(1);
    let both: Vec<(bool, bool)> = server
        .received()
        .iter()
        .map(|request| (request.changes_image(), request.sets("/activeDeadlineSeconds", &deadline)))
        .filter(|(image, deadline)| *image || *deadline)
        .collect();
    assert_eq!(both, [(true, false), (false, true)]);
    // The node has released the resources.
    assert_eq!(server.only_pod()["status"]["phase"], "Failed");
    is_stopped_before_start(&server, &runtime, &container).await;
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn unscheduled_container_that_could_run_later_is_not_called_stopped() {
    let (server, runtime) = cluster("1.36", FakeNode::default().schedules(false)).await;
    refuse_images(&server);
    let (container, start) = starting(&runtime).await;
    let error = container.stop(StopOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert_eq!(container.info().await.unwrap().status, ContainerStatus::Created);
    container.remove().await.unwrap();
    start.await.unwrap();
    assert!(server.pods().is_empty());
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn recorded_deadlines_keep_the_true_exit() {
    for (name, code) in [
        ("stop-by-deadline-exit-42", 42),
        ("stop-by-deadline-exit-0", 0),
        ("stop-by-deadline-ignores-term", 137),
    ] {
        let server = FakeServer::start("1.36").await;
        let options = server.options().stop_method(StopMethod::Deadline);
        let runtime = KubernetesRuntime::connect(options).await.unwrap();
        let (container, start) = starting(&runtime).await;
        let recording = Recording::read(name);
        let mut play = server.play(&server.only_pod_name(), &recording);
        play.until_running();
        start.await.unwrap();
        let stop = tokio::spawn({
            let container = container.clone();
            async move { container.stop(StopOptions::default()).await }
        });
        server.wait_for(|request| request.sets("/activeDeadlineSeconds", &json!(1))).await;
        play.until_ended();
        let outcome = stop.await.unwrap().unwrap();
        let StopOutcome::Stopped(exit) = outcome else { panic!("{name} {outcome:?}") };
        assert_eq!((exit.code, exit.reason), (Some(code), ExitReason::StoppedByUs), "{name}");
        runtime.close().await.unwrap();
    }
}

/// A deadline that another client has set is reported as such.
#[tokio::test]
async fn recorded_deadline_of_others_is_deadline_exceeded() {
    let server = FakeServer::start("1.36").await;
    let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
    let (container, start) = starting(&runtime).await;
    // As after a stop, but without a call to stop.
    let recording = Recording::read("stop-by-deadline-exit-0");
    let mut play = server.play(&server.only_pod_name(), &recording);
    play.until_ended();
    start.await.unwrap();
    let exit = container.wait().await.unwrap();
    assert_eq!((exit.reason, exit.success()), (ExitReason::DeadlineExceeded, false));
    runtime.close().await.unwrap();
}

#[tokio::test]
async fn remove_of_container_that_never_ran_is_one_forced_delete() {
    let server = FakeServer::start("1.36").await;
    let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
    let (container, start) = starting(&runtime).await;
    let recording = Recording::read("image-not-found");
    let mut play = server.play(&server.only_pod_name(), &recording);
    play.until(|pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        waiting == "ImagePullBackOff"
    });
    super::support::info_when(&container, |info| {
        info.message.as_deref().is_some_and(|words| words.contains("pull"))
    })
    .await;
    server.take_received();
    container.remove().await.unwrap();
    let deletes: Vec<_> =
        server.received().into_iter().filter(Received::deletes_pod).map(|r| r.body).collect();
    assert_eq!(deletes.len(), 1, "{deletes:#?}");
    assert_eq!(deletes[0]["gracePeriodSeconds"], 0);
    start.await.unwrap();
    runtime.close().await.unwrap();
}
