use std::fs;
use std::io;

use runtime_core::{ContainerSpec, PullPolicy, Runtime as _, Scope};
use runtime_support::ports::{self, PortReservation};

use super::*;
use crate::connect::open;
use crate::fake::{Fake, Says};
use crate::fake_crio::FakeCrio;
use crate::model::annotations::{Annotations, port_label};
use crate::options::{CriOptions, LogRotation};
use crate::runtime::CriRuntime;
use crate::state::connection::Ownership;

const MINUTE: Duration = Duration::from_secs(60);

/// Connects to an engine that sends empty responses.
async fn connected() -> (Fake, Arc<Connection>) {
    let fake = Fake::start(Says::Empty);
    let options = CriOptions::new(Scope::new("s").unwrap())
        .endpoint(fake.endpoint().to_string())
        .log_dir(fake.directory.path().join("logs"))
        .state_dir(fake.directory.path().join("state"))
        .log_rotation(LogRotation::Off);
    let backend = open(options, Ownership::Managed).await.unwrap();
    (fake, Arc::clone(&backend.connection))
}

async fn connect(fake: &FakeCrio, scope: &str) -> CriRuntime {
    let options = CriOptions::new(Scope::new(scope).unwrap())
        .endpoint(fake.endpoint().to_string())
        .log_dir(fake.directory.path().join("logs"))
        .state_dir(fake.directory.path().join("state"))
        .log_rotation(LogRotation::Off);
    CriRuntime::connect(options).await.unwrap()
}

fn spec() -> ContainerSpec {
    ContainerSpec::new("r.io/a:1").command(["x"]).pull_policy(PullPolicy::Never)
}

#[tokio::test]
async fn create_with_taken_name_on_crio_is_already_exists() {
    let fake = FakeCrio::start();
    let (one, other) = (connect(&fake, "one").await, connect(&fake, "other").await);
    let first = one.create_container(&spec().name("db")).await.unwrap();
    let error = other.create_container(&spec().name("db")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    let state = fake.state.lock().unwrap();
    assert_eq!(state.sandboxes.len(), 1);
    assert!(state.containers.contains_key(first.id().as_str()));
    assert!(!state.calls.iter().any(|call| call.starts_with("Stop")), "{:?}", state.calls);
}

#[tokio::test]
async fn sandbox_is_stopped_before_it_is_removed() {
    let fake = FakeCrio::start();
    let runtime = connect(&fake, "one").await;
    let container = runtime.create_container(&spec()).await.unwrap();
    container.remove().await.unwrap();
    assert!(fake.state.lock().unwrap().sandboxes.is_empty());
}

#[tokio::test]
async fn failed_create_returns_after_its_undo() {
    let fake = FakeCrio::start();
    let runtime = connect(&fake, "one").await;
    {
        let mut state = fake.state.lock().unwrap();
        state.create_fails = Some("no command specified");
        state.remove_takes = Duration::from_millis(300);
    }
    let error = runtime.create_container(&spec()).await.unwrap_err();
    assert_eq!(error.field(), Some("command"), "{error:?}");
    let state = fake.state.lock().unwrap();
    assert!(state.sandboxes.is_empty(), "a sandbox was left");
    assert!(state.calls.iter().any(|call| call == "RemovePodSandbox"));
}

#[tokio::test]
async fn create_retries_with_another_port() {
    let fake = FakeCrio::start();
    let runtime = connect(&fake, "one").await;
    let spec = spec().tcp_port(80);
    fake.state.lock().unwrap().run_fails =
        vec!["cannot open hostport 20001 for pod x: address already in use"];
    runtime.create_container(&spec).await.unwrap();
    fake.state.lock().unwrap().run_fails = vec!["port is already allocated"; PORT_ATTEMPTS];
    let error = runtime.create_container(&spec).await.unwrap_err();
    assert!(is_port_conflict(&error), "{error:?}");
    assert_eq!(fake.state.lock().unwrap().sandboxes.len(), 1);
}

#[tokio::test]
async fn create_does_not_use_port_of_another_sandbox() {
    let fake = FakeCrio::start();
    let mut random = ports::random(&Nonce::random().unwrap());
    let reserved = PortReservation::new(ports::HOST_PORTS, 1, &mut random).unwrap();
    let taken = reserved.ports().next().unwrap();
    drop(reserved);
    let config = cri::PodSandboxConfig { labels: [port_label(taken)].into(), ..Default::default() };
    let sandbox = crate::fake_crio::Sandbox { config, is_stopped: false };
    fake.state.lock().unwrap().sandboxes.insert("x".to_owned(), sandbox);
    let connected = CriOptions::new(Scope::new("s").unwrap())
        .endpoint(fake.endpoint().to_string())
        .log_dir(fake.directory.path().join("logs"))
        .state_dir(fake.directory.path().join("state"))
        .host_ports(taken..=taken);
    let runtime = CriRuntime::connect(connected).await.unwrap();
    let error = runtime.create_container(&spec().tcp_port(80)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
}

#[tokio::test]
async fn lists_have_a_selector() {
    let fake = FakeCrio::start();
    let runtime = connect(&fake, "one").await;
    runtime.create_container(&spec().tcp_port(80)).await.unwrap();
    runtime.health().await.unwrap();
    runtime.reap(runtime_core::ReapOptions::default()).await.unwrap();
    let state = fake.state.lock().unwrap();
    assert!(!state.selectors.is_empty());
    assert!(state.selectors.iter().all(|labels| !labels.is_empty()), "{:?}", state.selectors);
}

#[tokio::test]
async fn clear_uses_the_directories_of_the_create() {
    let (fake, connection) = connected().await;
    let nonce = Nonce::random().unwrap();
    let own = |root: &str| fake.directory.path().join(root).join("s").join(nonce.as_str());
    let (logs, shm) = (own("earlier-logs"), own("earlier-state").join("shm"));
    fs::create_dir_all(&logs).unwrap();
    let annotations = Annotations { logs: Some(logs.clone()), ..Annotations::default() };
    connection.container_dirs().clear(&annotations).await.unwrap();
    assert!(!logs.exists());
    // A mount in a namespace that is not visible is an error.
    fs::create_dir_all(&shm).unwrap();
    let annotations = Annotations { shared_memory: Some(shm), ..Annotations::default() };
    let error = connection.container_dirs().clear(&annotations).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}

#[tokio::test]
async fn dropped_container_is_undone() {
    let (_fake, connection) = connected().await;
    let unclaimed = |name: &str| {
        let nonce = Nonce::random().unwrap();
        let logs = connection.settings.log_dir.join("s").join(nonce.as_str());
        fs::create_dir_all(&logs).unwrap();
        let annotations = Annotations { logs: Some(logs.clone()), ..Annotations::default() };
        let made = CriContainer {
            id: ContainerId::new("c"),
            name: name.into(),
            sandbox: "s".into(),
            annotations: Arc::new(annotations),
        };
        let handle = Handle::current();
        (Unclaimed { connection: connection.clone(), made, nonce, kept: false, handle }, logs)
    };
    let (taken, kept) = unclaimed("taken");
    let (lost, gone) = unclaimed("lost");
    assert_eq!(&*taken.keep().name, "taken");
    // The caller is dropped after the send.
    let (reply, caller) = oneshot::channel::<Result<Unclaimed>>();
    assert!(reply.send(Ok(lost)).is_ok());
    drop(caller);
    connection.context.half_made.close(MINUTE).await;
    assert!(kept.exists() && !gone.exists());
}

#[tokio::test(start_paused = true)]
async fn undo_polls_during_its_patience() {
    let (_fake, connection) = connected().await;
    let nonce = Nonce::random().unwrap();
    let requests = async |patience| {
        let before = connection.client.requests_sent();
        undo(&connection, &nonce, None, &Annotations::default(), patience).await;
        connection.client.requests_sent() - before
    };
    assert_eq!(requests(Duration::ZERO).await, 1);
    let begun = Instant::now();
    assert!(requests(MINUTE).await > 10);
    assert!(begun.elapsed() > MINUTE / 2);
    // A close waits for one attempt only.
    connection.context.half_made.close(MINUTE).await;
    assert_eq!(requests(MINUTE).await, 1);
}

#[test]
fn sandbox_may_appear_without_a_response_only() {
    let unavailable = || Error::new(ErrorKind::Unavailable);
    let because = |kind: io::ErrorKind| unavailable().with_source(io::Error::from(kind));
    for (error, may) in [
        (Error::new(ErrorKind::Timeout), true),
        (unavailable(), true),
        (because(io::ErrorKind::ConnectionReset), true),
        (because(io::ErrorKind::ConnectionRefused), false),
        (Error::new(ErrorKind::AlreadyExists), false),
        (Error::new(ErrorKind::Internal), false),
    ] {
        assert_eq!(may_appear(&error), may, "{error:?}");
    }
}

#[tokio::test]
async fn exit_of_container_removed_before_its_start_is_removed() {
    let fake = FakeCrio::start();
    let runtime = connect(&fake, "one").await;
    let container = runtime.create_container(&spec()).await.unwrap();
    {
        let mut state = fake.state.lock().unwrap();
        let made = state.containers.get_mut(container.id().as_str()).unwrap();
        (made.state, made.exit_code) = (cri::ContainerState::ContainerExited, 2);
    }
    let info = container.info().await.unwrap();
    let exit = info.exit.unwrap();
    assert_eq!((exit.reason, exit.code), (runtime_core::ExitReason::Removed, None), "{exit:?}");
    assert_eq!(info.started_at, None);
    let exit = container.wait().await.unwrap();
    assert_eq!(exit.reason, runtime_core::ExitReason::Removed, "{exit:?}");
}

#[tokio::test]
async fn second_start_on_crio_is_already_started() {
    use runtime_core::StartOutcome;
    let fake = FakeCrio::start();
    let runtime = connect(&fake, "one").await;
    let container = runtime.create_container(&spec()).await.unwrap();
    assert_eq!(container.start().await.unwrap(), StartOutcome::Started);
    assert_eq!(container.start().await.unwrap(), StartOutcome::AlreadyStarted);
    let id = container.id().as_str();
    fake.state.lock().unwrap().containers.get_mut(id).unwrap().state =
        cri::ContainerState::ContainerExited;
    assert_eq!(container.start().await.unwrap(), StartOutcome::AlreadyStarted);
}

#[tokio::test]
async fn runc_error_at_create_names_the_field() {
    let fake = FakeCrio::start();
    let runtime = connect(&fake, "one").await;
    for (message, field) in [
        ("unable to find user nobody-there: no matching entries in passwd file", "user"),
        (
            "container create failed: runc create failed: unable to start container process: exec: \
             \"no-such\": executable file not found in $PATH",
            "command",
        ),
    ] {
        fake.state.lock().unwrap().create_fails = Some(message);
        let error = runtime.create_container(&spec()).await.unwrap_err();
        let found = (error.kind(), error.field());
        assert_eq!(found, (ErrorKind::InvalidArgument, Some(field)), "{error:?}");
        assert!(fake.state.lock().unwrap().sandboxes.is_empty(), "{message}");
    }
}

#[tokio::test]
async fn create_sends_image_id_of_crio_without_algorithm() {
    let fake = FakeCrio::start();
    let runtime = connect(&fake, "one").await;
    let id = format!("sha256:{}", crate::fake_crio::IMAGE_ID);
    for name in ["r.io/a:1", &id, crate::fake_crio::IMAGE_ID] {
        let spec = ContainerSpec::new(name).command(["x"]).pull_policy(PullPolicy::Never);
        let container = runtime.create_container(&spec).await.unwrap();
        assert_eq!(container.info().await.unwrap().image.id.as_deref(), Some(id.as_str()));
        let state = fake.state.lock().unwrap();
        let request = &state.containers[container.id().as_str()].request;
        let image = request.config.as_ref().unwrap().image.as_ref().unwrap();
        assert_eq!(image.image, crate::fake_crio::IMAGE_ID, "{name}");
    }
}

#[tokio::test]
async fn stats_of_created_container_on_crio_are_not_started() {
    let fake = FakeCrio::start();
    let runtime = connect(&fake, "one").await;
    let created = runtime.create_container(&spec()).await.unwrap();
    let running = runtime.create_container(&spec()).await.unwrap();
    running.start().await.unwrap();
    let error = created.stats_once().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotStarted, "{error:?}");
    assert_eq!(running.stats_once().await.unwrap().memory_bytes, Some(9));
    let ids = [created.id().clone(), running.id().clone()];
    let measured = runtime.stats(&ids).await.unwrap();
    let measured: Vec<_> = measured.into_iter().map(|(id, _)| id).collect();
    assert_eq!(measured, [running.id().clone()]);
}

#[tokio::test]
async fn health_ignores_pod_labels_of_crio() {
    let fake = FakeCrio::start();
    let runtime = connect(&fake, "one").await;
    runtime.create_container(&spec()).await.unwrap();
    let health = runtime.health().await.unwrap();
    assert!(!health.warnings.iter().any(|message| message.contains("kubelet")), "{health:?}");
}
