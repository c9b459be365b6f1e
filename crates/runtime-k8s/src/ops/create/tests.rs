use super::*;

use runtime_core::{Capabilities, ContainerSpec, Runtime as _, Scope};
use runtime_support::backend::Connected;

use crate::client::tests::{Answer, slow};
use crate::model::capabilities::Server;
use crate::options::KubernetesOptions;

use super::undo::UNDO_TIMEOUT;

#[tokio::test]
async fn concurrent_creates_draw_different_ports() {
    const PODS: &str = r#"{"metadata": {"resourceVersion": "1"}, "items": [{
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"containers": [{"name": "main", "ports": [
            {"containerPort": 1, "hostPort": 20000}]}]}}]}"#;
    let client = crate::client::tests::of(|_, uri| match uri.contains("watch=true") {
        true => (200, ""),
        false => (200, PODS),
    });
    let options = KubernetesOptions::new(Scope::new("t").unwrap()).host_ports(20_000..=20_004);
    let backend = Arc::new(KubernetesBackend::new(
        client,
        options,
        Server::default(),
        Capabilities::default(),
    ));
    let draw = |wanted| DrawnPorts::draw(&backend, wanted);
    let (one, other) = (draw(2).await.unwrap(), draw(2).await.unwrap());
    let mut all = [one.ports(), other.ports()].concat();
    all.sort_unstable();
    assert_eq!(all, [20_001, 20_002, 20_003, 20_004]);
    assert!(draw(1).await.is_err());
    drop(one);
    assert!(draw(2).await.is_ok());
    assert!(draw(3).await.is_err());
}

async fn create(
    backend: &Arc<KubernetesBackend>,
    spec: &ContainerSpec,
) -> Result<KubernetesContainer> {
    let context = &backend.context;
    super::create_pod(backend, spec.prepare(&context.scope, &context.capabilities)?).await
}

/// Returns a connection to a server that does not respond.
fn silent() -> Arc<KubernetesBackend> {
    let client = slow(|_, _| std::future::pending::<(u16, Answer)>());
    let options = KubernetesOptions::new(Scope::new("t").unwrap());
    Arc::new(KubernetesBackend::new(client, options, Server::default(), Capabilities::default()))
}

fn made(backend: &Arc<KubernetesBackend>) -> UnclaimedPod {
    let executor = Handle::current();
    UnclaimedPod { backend: Arc::clone(backend), pod: Some(Pod::default()), executor }
}

#[tokio::test]
async fn create_dropped_outside_executor_is_undone() {
    let (deleted, mut deletions) = tokio::sync::mpsc::unbounded_channel();
    let client = crate::client::tests::of(move |method, _| {
        if method.as_str() == "DELETE" {
            let _ = deleted.send(());
        }
        (200, "{}")
    });
    let options = KubernetesOptions::new(Scope::new("t").unwrap());
    let backend = Arc::new(KubernetesBackend::new(
        client,
        options,
        Server::default(),
        Capabilities::default(),
    ));
    let made = made(&backend);
    std::thread::spawn(move || drop(made)).join().unwrap();
    let deletion = tokio::time::timeout(Duration::from_secs(30), deletions.recv()).await;
    assert_eq!(deletion.unwrap(), Some(()));
}

#[test]
fn maximum_budgets_do_not_overflow() {
    const MAX: Duration = Duration::MAX;
    let options = KubernetesOptions::new(Scope::new("t").unwrap())
        .pull_budget(MAX)
        .schedule_budget(MAX)
        .start_budget(MAX)
        .node_budget(MAX)
        .session_pings(MAX)
        .bounded();
    for time in [
        options.pull_budget,
        options.schedule_budget,
        options.start_budget,
        options.node_budget,
        options.session_pings,
    ] {
        assert!(std::time::Instant::now().checked_add(time).is_some());
    }
}

#[test]
fn create_dropped_after_executor_releases_backend() {
    let executor = tokio::runtime::Runtime::new().unwrap();
    let (made, backend) = executor.block_on(async {
        let backend = silent();
        (made(&backend), backend)
    });
    drop(executor);
    drop(made);
    // The undo that cannot run any more does not keep the backend alive.
    assert_eq!(Arc::strong_count(&backend), 1);
}

#[tokio::test(start_paused = true)]
async fn undo_without_responses_ends() {
    let begun = Instant::now();
    let undone = undo(silent(), Pod::default());
    tokio::time::timeout(UNDO_TIMEOUT * 10, undone).await.unwrap();
    assert!(begun.elapsed() <= UNDO_TIMEOUT + ATTEMPT_TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_missing_responses() {
    let backend = silent();
    let spec = ContainerSpec::new(runtime_core::Image::new("busybox"));
    let create = tokio::time::timeout(Duration::from_secs(1), create(&backend, &spec));
    create.await.expect_err("the server does not respond");
    let begun = Instant::now();
    Connected::new(backend).close().await.unwrap();
    assert!(begun.elapsed() <= ATTEMPT_TIMEOUT * 2, "{:?}", begun.elapsed());

    let backend = silent();
    drop(made(&backend));
    let begun = Instant::now();
    Connected::new(backend).close().await.unwrap();
    assert!(begun.elapsed() <= ATTEMPT_TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn create_is_undone_if_cluster_replaces_policy_never() {
    const POD: &str = r#"{"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [
        {"name": "main", "image": "busybox", "imagePullPolicy": "Always"}],
        "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"container-runtime/released": "n"}}}]}}}}"#;
    let deleted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&deleted);
    let client = crate::client::tests::of(move |method, _| match method.as_str() {
        "POST" => (201, POD),
        "DELETE" => {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            (200, "{}")
        }
        _ => (200, POD),
    });
    let options = KubernetesOptions::new(Scope::new("t").unwrap());
    let can = crate::model::capabilities::capabilities(&Server::default(), &options);
    let backend = Arc::new(KubernetesBackend::new(client, options, Server::default(), can));
    let never = ContainerSpec::new("busybox").pull_policy(runtime_core::PullPolicy::Never);
    let error = create(&backend, &never).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert_eq!(error.field(), Some("pull_policy"));
    assert_eq!(deleted.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert!(create(&backend, &ContainerSpec::new("busybox")).await.is_ok());
}
