use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use runtime_core::{ContainerSpec, Mount, Scope};
use serde_json::json;

use super::*;
use crate::model::capabilities::{Server, capabilities};
use crate::options::KubernetesOptions;

fn planned(mounts: &[Mount]) -> Plan {
    let options = KubernetesOptions::new(Scope::new("t").unwrap()).annotation("a/b", "c");
    let can = capabilities(&Server::default(), &options);
    let mut spec = ContainerSpec::new("busybox").memory(64 << 20).tcp_port(80);
    for mount in mounts {
        spec = spec.mount(mount.clone());
    }
    let prepared = spec.prepare(&options.scope, &can).unwrap();
    crate::model::spec::plan(
        prepared,
        &options,
        crate::model::pod::gate::StartGate::Affinity,
        &[20_000],
        None,
    )
    .unwrap()
}

fn types(plan: &Plan) -> Vec<Option<String>> {
    let volumes = plan.pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
    volumes.iter().map(|volume| volume.host_path.as_ref().unwrap().type_.clone()).collect()
}

#[test]
fn mount_kind_sets_volume_type_of_probe() {
    let mount = |kind| Mount::new("/a", "/b").kind(kind);
    for (kind, want) in [
        (MountKind::Directory, Some("Directory")),
        (MountKind::File, Some("File")),
        (MountKind::Socket, Some("Socket")),
        (MountKind::CharDevice, Some("CharDevice")),
        (MountKind::BlockDevice, Some("BlockDevice")),
        (MountKind::Fifo, None),
    ] {
        let plan = planned(&[mount(kind)]);
        assert_eq!(types(&plan), [want.map(str::to_owned)], "{kind:?}");
        assert!(plan.unknown_mounts.is_empty(), "{kind:?} needs no probe");
    }
    assert_eq!(planned(&[mount(MountKind::File), Mount::new("/c", "/d")]).unknown_mounts, [1]);
}

#[test]
fn probe_has_all_unknown_sources_and_no_command() {
    let plan = planned(&[
        Mount::new("/a", "/1"),
        Mount::new("/k", "/2").kind(MountKind::File),
        Mount::new("/dev/b", "/3"),
    ]);
    let nonce = Nonce::random().unwrap();
    let probe = serde_json::to_value(probe(&plan.pod, &sources(&plan), &nonce)).unwrap();
    let volumes = probe["spec"]["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), 10, "five kinds of each of two");
    let wanted = json!({"name": "mount-2-block-device", "hostPath": {"path": "/dev/b", "type": "BlockDevice"}});
    assert!(volumes.contains(&wanted), "{volumes:?}");
    let container = &probe["spec"]["containers"][0];
    // Policies, quotas and the scheduler check the same container.
    assert_eq!(container["resources"], json!({"limits": {"memory": "67108864"}, "requests": {}}));
    assert_eq!(probe["spec"]["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(probe["metadata"]["annotations"], json!({"a/b": "c"}));
    assert_eq!(probe["metadata"]["labels"]["container-runtime/managed"], "probe");
    assert_eq!(probe["metadata"]["labels"]["container-runtime/scope"], "t");
    for gone in ["/spec/schedulingGates", "/spec/affinity/podAffinity", "/spec/containers/0/ports"]
    {
        assert_eq!(probe.pointer(gone), None, "{gone}");
    }
    assert_eq!(probe["spec"]["activeDeadlineSeconds"], 600);
}

#[test]
fn number_of_kinds_is_below_event_limit() {
    for (count, kinds) in [(1, 5), (2, 5), (3, 4), (4, 3), (5, 2), (9, 2), (20, 2)] {
        let mounts: Vec<Mount> =
            (0..count).map(|at| Mount::new(format!("/{at}"), format!("/t{at}"))).collect();
        let sources = sources(&planned(&mounts));
        assert_eq!(sources.len(), count);
        assert!(sources.iter().all(|source| source.tried.len() == kinds), "{count}");
        assert!(count > 9 || count * (kinds - 1) <= REFUSALS_MAX, "{count}");
    }
}

#[test]
fn kind_follows_from_refusals() {
    use MountKind::{BlockDevice, CharDevice, Directory, Fifo, File, Socket};
    let source = |tried: &[MountKind]| Source { at: 1, path: "/x".into(), tried: tried.to_vec() };
    let all = [Directory, File, Socket, CharDevice, BlockDevice];
    // Kubelets before 1.30 or so.
    let old = |kind: MountKind, text: &str| {
        format!(
            "MountVolume.SetUp failed for volume \"{}\" : hostPath type check failed: /x is not a {text}",
            probe_volume(1, kind)
        )
    };
    let dir = old(Directory, "directory");
    let file = old(File, "file");
    let socket = old(Socket, "socket file");
    let chr = old(CharDevice, "character device");
    let blk = old(BlockDevice, "block device");
    let new =
        |text: &str| format!("MountVolume.SetUp failed for volume \"mount-1-directory\" : {text}");
    let named = new("hostPath type check failed: /x is not a directory, it's a Socket");
    let gone = new("hostPath /x doesn't exist");
    let fifo = new(
        "hostPath type check failed, /x is not a directory, unable to determine its type: only recognise file, directory, socket, block device and character device",
    );
    let other = dir.replace("mount-1-", "mount-11-");
    for (tried, messages, settled, want) in [
        (&all[..], vec![&file, &socket, &chr, &blk], true, Some(Finding::Is(Directory))),
        (&all, vec![&file, &socket, &chr, &blk], false, None),
        (&all, vec![&file, &socket, &chr], true, None),
        (&all, vec![&dir, &file, &socket, &chr, &blk], false, Some(Finding::None)),
        (&all, vec![&dir, &socket, &chr, &blk], true, Some(Finding::Is(File))),
        (&all[..2], vec![&dir], true, Some(Finding::Is(File))),
        (&all[..2], vec![&dir, &file], false, Some(Finding::None)),
        (&all, vec![&named], false, Some(Finding::Is(Socket))),
        (&all, vec![&gone], false, Some(Finding::Missing)),
        (&all, vec![&fifo], false, Some(Finding::Is(Fifo))),
        (&all[..2], vec![&other], true, None),
    ] {
        let messages: Vec<&str> = messages.into_iter().map(String::as_str).collect();
        assert_eq!(finding(&source(tried), &messages, settled), want, "{messages:?}");
    }
}

fn backend(client: crate::client::Client) -> Arc<KubernetesBackend> {
    let options = KubernetesOptions::new(Scope::new("t").unwrap());
    let can = capabilities(&Server::default(), &options);
    Arc::new(KubernetesBackend::new(client, options, Server::default(), can))
}

const PROBE_POD: &str = r#"{"metadata": {"name": "probe", "uid": "p"}, "spec": {"nodeName": "n"}}"#;

#[tokio::test(start_paused = true)]
async fn probe_is_removed_before_container_is_created() {
    static EVENTS: &str = r#"{"items": [{"reason": "FailedMount", "message":
        "MountVolume.SetUp failed for volume \"mount-0-directory\" : hostPath type check failed: /a is not a directory, it's a File"}]}"#;
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let client = crate::client::tests::of(move |method, uri| {
        seen.lock().unwrap().push(method.to_string());
        match method.as_str() {
            "POST" => (201, PROBE_POD),
            "DELETE" => (200, "{}"),
            _ if uri.contains("events") => (200, EVENTS),
            _ => (200, PROBE_POD),
        }
    });
    let mut plan = planned(&[Mount::new("/a", "/b")]);
    assert!(settle(&backend(client), &mut plan).await.unwrap());
    assert_eq!(types(&plan), [Some("File".to_owned())]);
    let requests = requests.lock().unwrap();
    assert_eq!(requests.iter().filter(|method| *method == "POST").count(), 1);
    assert_eq!(requests.last().map(String::as_str), Some("DELETE"));
}

#[tokio::test(start_paused = true)]
async fn missing_right_to_events_ends_probe() {
    let deleted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&deleted);
    let client = crate::client::tests::of(move |method, uri| match method.as_str() {
        "POST" => (201, PROBE_POD),
        "DELETE" => {
            count.fetch_add(1, Ordering::Relaxed);
            (200, "{}")
        }
        _ if uri == "/readyz" => (200, "ok"),
        _ if uri.contains("events") => (
            403,
            r#"{"kind": "Status", "code": 403, "reason": "Forbidden", "message":
                "events is forbidden: User \"u\" cannot list resource \"events\" in API group \"\" in the namespace \"x\""}"#,
        ),
        _ => (200, PROBE_POD),
    });
    let error =
        settle(&backend(client), &mut planned(&[Mount::new("/a", "/b")])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.message().is_some_and(|text| text.contains("the right to list events")));
    assert_eq!(deleted.load(Ordering::Relaxed), 1);
}

#[test]
fn source_of_unknown_kind_is_named_in_error() {
    let source =
        Source { at: 2, path: "/x".into(), tried: vec![MountKind::Directory, MountKind::File] };
    let error = kind_of(&source, Finding::None).unwrap_err();
    assert_eq!(error.field(), Some("mounts[2].source"));
    assert!(error.message().is_some_and(|text| text.contains("directory, file")), "{error:?}");
    let error = kind_of(&source, Finding::Missing).unwrap_err();
    assert_eq!(
        (error.kind(), error.field()),
        (ErrorKind::InvalidArgument, Some("mounts[2].source"))
    );
}
