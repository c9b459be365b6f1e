//! Quotas, limit ranges and admission webhooks, with the messages of a real server.

use std::sync::{Mutex, PoisonError};

use futures_util::TryStreamExt as _;
use runtime_core::{
    ContainerSpec, ContainerStatus, ErrorKind, Exit, LogOptions, Mount, Result, Runtime as _,
    StopOptions,
};
use runtime_k8s::{KubernetesRuntime, StopMethod};
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::support::{Namespace, Outcome, is_unschedulable};
use super::webhook::{Review, Webhook};

fn quota(hard: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"},
        "spec": {"hard": hard},
    })
}

fn limit_range(limits: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "range"},
        "spec": {"limits": [limits]},
    })
}

#[track_caller]
fn is_refused<T>(created: Result<T>, kind: ErrorKind, field: Option<&str>, words: &str) {
    let Err(error) = created else { panic!("it was created and should be {kind:?}") };
    assert_eq!((error.kind(), error.field()), (kind, field), "{error:?}");
    assert!(!error.is_retryable() || kind == ErrorKind::ResourceExhausted, "{error:?}");
    assert!(error.message().is_some_and(|message| message.contains(words)), "{error:?}");
}

/// Creates, starts and waits for a container, reads its log and removes it.
async fn run(namespace: &Namespace, spec: &ContainerSpec) -> Result<(Exit, String)> {
    let container = namespace.runtime.create_container(spec).await?;
    container.start().await?;
    let exit = container.wait().await?;
    let records: Vec<_> = container.logs(LogOptions::default()).await?.try_collect().await?;
    let log = records.iter().flat_map(|record| record.bytes.to_vec()).collect();
    container.remove().await?;
    Ok((exit, String::from_utf8(log).unwrap_or_default()))
}

/// The quota requires limits of every pod. A spec without one, or above the whole quota, is invalid; a spec
/// that exceeds the remaining quota is accepted later.
#[tokio::test(flavor = "multi_thread")]
async fn quota_that_requires_limits_names_the_field() -> Outcome {
    use ErrorKind::{InvalidArgument, ResourceExhausted};
    let hard = json!({"limits.memory": "128Mi", "limits.cpu": "2"});
    let namespace = Namespace::new(vec![quota(&hard)]).await?;
    let runtime = &namespace.runtime;
    let bare = namespace.script("echo out; exit 3");
    let sized = bare.clone().memory(96 << 20).cpu_count(1.0);
    let missing = "must specify limits.";
    let refused = runtime.create_container(&bare).await;
    is_refused(refused, InvalidArgument, Some("cpu_count"), missing);
    let refused = runtime.create_container(&bare.clone().cpu_count(0.5)).await;
    is_refused(refused, InvalidArgument, Some("memory"), missing);
    let refused = runtime.create_container(&bare.clone().memory(8 << 20)).await;
    is_refused(refused, InvalidArgument, Some("cpu_count"), missing);
    let refused = runtime.create_container(&sized.clone().memory(129 << 20)).await;
    is_refused(refused, InvalidArgument, Some("memory"), "exceeded quota");
    let refused = runtime.create_container(&sized.clone().cpu_count(2.5)).await;
    is_refused(refused, InvalidArgument, Some("cpu_count"), "exceeded quota");

    let first = runtime.create_container(&sized).await?;
    let refused = runtime.create_container(&sized).await;
    is_refused(refused, ResourceExhausted, None, "exceeded quota");
    assert_eq!(namespace.pods().await?.len(), 1, "a refused create leaves nothing");
    first.remove().await?;
    namespace.until_quota_is_free().await?;
    let (exit, log) = run(&namespace, &sized).await?;
    assert_eq!((exit.code, &*log), (Some(3), "out\n"), "{exit:?}");
    namespace.finish().await
}

/// All operations on a container succeed if the quota allows one pod, even if the kind of a mount's source
/// has to be detected.
#[tokio::test(flavor = "multi_thread")]
async fn quota_for_one_pod_is_enough() -> Outcome {
    let namespace = Namespace::new(vec![quota(&json!({"pods": "1"}))]).await?;
    let runtime = &namespace.runtime;
    let spec = namespace.script("echo out; exit 3");
    let held = runtime.create_container(&spec).await?;
    let pods = namespace.pods().await?;
    let image = &pods[0]["spec"]["containers"][0]["image"];
    assert!(image.as_str().is_some_and(|image| image.contains("busybox")), "{image}");
    assert_eq!(pods[0]["spec"]["nodeName"], Value::Null);
    let refused = runtime.create_container(&spec).await;
    is_refused(refused, ErrorKind::ResourceExhausted, None, "pods=1");
    held.start().await?;
    assert_eq!(held.wait().await?.code, Some(3));
    held.remove().await?;
    namespace.until_quota_is_free().await?;

    let folder = tempfile::tempdir_in(&namespace.environment.shared)?;
    std::fs::write(folder.path().join("file"), "content\n")?;
    let spec = namespace.script("cat /mounted/file").mount(Mount::new(folder.path(), "/mounted"));
    let (exit, log) = run(&namespace, &spec).await?;
    assert_eq!((exit.code, &*log), (Some(0), "content\n"), "{exit:?}");
    namespace.finish().await
}

/// A spec outside the limit range is refused with the name of the field.
#[tokio::test(flavor = "multi_thread")]
async fn limit_range_names_the_field() -> Outcome {
    use ErrorKind::InvalidArgument;
    let limits = json!({
        "type": "Container",
        "min": {"memory": "16Mi", "cpu": "100m"},
        "max": {"memory": "64Mi", "cpu": "1"},
    });
    let namespace = Namespace::new(vec![limit_range(&limits)]).await?;
    let runtime = &namespace.runtime;
    let bare = namespace.script("echo out; exit 3");
    let refused = runtime.create_container(&bare.clone().memory(8 << 20)).await;
    is_refused(refused, InvalidArgument, Some("memory"), "minimum memory usage");
    let refused = runtime.create_container(&bare.clone().memory(65 << 20)).await;
    is_refused(refused, InvalidArgument, Some("memory"), "maximum memory usage");
    let refused = runtime.create_container(&bare.clone().cpu_count(0.05)).await;
    is_refused(refused, InvalidArgument, Some("cpu_count"), "minimum cpu usage");
    let refused = runtime.create_container(&bare.clone().cpu_count(1.5)).await;
    is_refused(refused, InvalidArgument, Some("cpu_count"), "maximum cpu usage");
    assert!(namespace.pods().await?.is_empty(), "a refused create leaves nothing");
    let (exit, log) = run(&namespace, &bare.memory(32 << 20)).await?;
    assert_eq!((exit.code, &*log), (Some(3), "out\n"), "{exit:?}");
    namespace.finish().await
}

/// Refuses images with the tag `refused-CODE`, with that code, and each change to an invalid image. Warns of
/// all other requests.
fn images(request: &Value) -> Value {
    let image = request["object"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
    let refuse = |code: u32, words: &str| json!({"allowed": false, "status": {"code": code, "message": words}});
    if request["operation"] == "UPDATE" && image.starts_with('!') {
        return refuse(403, "[valid-references] an image is a reference");
    }
    match image.split_once(":refused-").map(|(_, code)| code.parse()) {
        Some(Ok(code)) => refuse(code, "[allowed-tags] this tag is not allowed"),
        _ => json!({"allowed": true, "warnings": ["images.policies.test: tags are deprecated"]}),
    }
}

/// A policy that refuses a create is an error of the create. A policy that refuses the image of a stop leaves
/// the container running, is named by the stop, and does not prevent its removal.
#[tokio::test(flavor = "multi_thread")]
async fn webhook_refuses_create_and_stop_with_its_policy() -> Outcome {
    const WEBHOOK: &str = "images.policies.test";
    let mut namespace = Namespace::new(Vec::new()).await?;
    let webhook = Webhook::start(&mut namespace, WEBHOOK, images).await?;
    let connected = KubernetesRuntime::connect(namespace.options()).await?;
    assert!(webhook.take_received().is_empty(), "a connect creates nothing, not as a dry run");
    connected.close().await?;
    let runtime = &namespace.runtime;
    let registry = &namespace.environment.registry.address;
    for code in [400, 403, 422, 500] {
        let spec = ContainerSpec::new(format!("{registry}/test/busybox:refused-{code}"));
        let refused = runtime.create_container(&spec).await;
        is_refused(refused, ErrorKind::PermissionDenied, None, "policy allowed-tags of");
        let reviewed = webhook.take_received();
        let [request] = &reviewed[..] else { panic!("one request for {code}: {reviewed:?}") };
        let image = &request["object"]["spec"]["containers"][0]["image"];
        assert!(image.as_str().is_some_and(|image| image.contains("refused")), "{image}");
    }
    assert!(namespace.pods().await?.is_empty(), "a refused create leaves nothing");

    let spec = namespace.script("trap 'exit 5' TERM; echo ready; sleep 3600 & wait");
    let [running, unscheduled, short] =
        [spec.clone(), spec.clone().cpu_count(1000.0), namespace.script("echo out; exit 3")];
    let running = runtime.create_container(&running).await?;
    running.start().await?;
    let unscheduled = namespace.starting(&unscheduled, is_unschedulable).await?;
    for container in [&running, &unscheduled] {
        let error = container.stop(StopOptions::default()).await.expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        let words = error.message().unwrap_or_default();
        for part in ["policy valid-references of", WEBHOOK, "`remove` still ends it"] {
            assert!(words.contains(part), "{error:?}");
        }
    }
    assert_eq!(running.info().await?.status, ContainerStatus::Running);
    // The other stop method of this server loses the exit code.
    let options = namespace.options().stop_method(StopMethod::Deadline);
    let error = KubernetesRuntime::connect(options).await.expect_err("it is refused");
    let kind_and_field = (error.kind(), error.field());
    assert_eq!(kind_and_field, (ErrorKind::InvalidArgument, Some("stop_method")), "{error:?}");
    for container in [running, unscheduled] {
        container.remove().await?;
    }
    assert!(namespace.pods().await?.is_empty());
    // A container that exits by itself does not need the policy.
    let (exit, log) = run(&namespace, &short).await?;
    assert_eq!((exit.code, &*log), (Some(3), "out\n"), "{exit:?}");
    namespace.finish().await
}

/// Warnings of the policies of this test, as events of `tracing` with their level.
struct Warned(Mutex<Vec<String>>);

static WARNED: Warned = Warned(Mutex::new(Vec::new()));

impl Subscriber for &'static Warned {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{}={value:?} ", field.name()));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// A server reports the warnings of its policies with each response; a connection reports each once.
#[tokio::test(flavor = "multi_thread")]
async fn warning_of_a_policy_is_reported_once() -> Outcome {
    const WARNING: &str = "warned.policies.test: tags are deprecated";
    tracing::subscriber::set_global_default(&WARNED)?;
    let mut namespace = Namespace::new(Vec::new()).await?;
    let warn: Review = |_| json!({"allowed": true, "warnings": [WARNING]});
    let webhook = Webhook::start(&mut namespace, "warned.policies.test", warn).await?;
    for _ in 0..2 {
        let container = namespace.runtime.create_container(&namespace.script("true")).await?;
        container.remove().await?;
    }
    assert_eq!(webhook.take_received().len(), 2, "both creates had a warning");
    let warned = WARNED.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let ours: Vec<_> = warned.iter().filter(|text| text.contains(WARNING)).collect();
    assert_eq!(ours.len(), 1, "{warned:?}");
    assert!(ours[0].contains("warning of the API server"), "{ours:?}");
    namespace.finish().await
}
