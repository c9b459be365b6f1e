//! Specs and their pods.

use proptest::prelude::*;
use runtime_core::{Capabilities, ContainerSpec, ErrorKind, Scope};
use serde_json::{Value, json};

use super::*;
use crate::options::{CpuShares, VoluntaryEviction};

fn all() -> Capabilities {
    let mut all = Capabilities::default();
    for &capability in Capability::ALL {
        all.set(capability, true);
    }
    all
}

fn options() -> KubernetesOptions {
    KubernetesOptions::new(Scope::new("t").unwrap()).gpu_resource("nvidia.com/gpu")
}

fn try_plan(spec: &ContainerSpec, options: &KubernetesOptions) -> Result<Plan> {
    let prepared = spec.prepare(&options.scope, &all())?;
    let auth = prepared.auth.clone();
    plan(prepared, options, StartGate::SchedulingGate, &[20_001, 20_002], auth)
}

fn pod(spec: &ContainerSpec, options: &KubernetesOptions) -> Value {
    serde_json::to_value(try_plan(spec, options).unwrap().pod).unwrap()
}

fn container(spec: &ContainerSpec) -> Value {
    pod(spec, &options())["spec"]["containers"][0].clone()
}

#[test]
fn every_pod_is_gated_and_without_controller() {
    let pod = pod(&ContainerSpec::new("busybox").name("web.1"), &options());
    let spec = &pod["spec"];
    assert_eq!(spec["restartPolicy"], "Never");
    assert_eq!(spec["enableServiceLinks"], false);
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["terminationGracePeriodSeconds"], 10);
    assert_eq!(spec["schedulingGates"][0]["name"], "container-runtime/start");
    assert_eq!(spec["containers"][0]["image"], "docker.io/library/busybox:latest");
    assert_eq!(spec["affinity"], Value::Null);
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(spec["os"], Value::Null);
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["container-runtime/image"], "docker.io/library/busybox:latest");
    assert_eq!(annotations["container-runtime/name"], "web.1");
    assert_eq!(pod["metadata"]["labels"]["container-runtime/managed"], "true");
}

#[test]
fn pod_without_gates_has_affinity_to_its_own_label() {
    let prepared = ContainerSpec::new("busybox").prepare(&options().scope, &all()).unwrap();
    let nonce = prepared.nonce.to_string();
    let plan = plan(prepared, &options().node("n1"), StartGate::Affinity, &[], None).unwrap();
    let pod = serde_json::to_value(&plan.pod).unwrap();
    let term = &pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        [0];
    assert_eq!(term["labelSelector"]["matchLabels"], json!({"container-runtime/released": nonce}));
    assert_eq!(pod["metadata"]["labels"]["container-runtime/released"], Value::Null);
    // One gate, never two, and the affinity to the node is kept.
    assert_eq!(pod["spec"]["schedulingGates"], Value::Null);
    assert!(pod["spec"]["affinity"]["nodeAffinity"].is_object());
}

#[test]
fn dropped_gate_is_replaced_by_affinity() {
    let prepared = ContainerSpec::new("busybox").prepare(&options().scope, &all()).unwrap();
    let mut plan =
        plan(prepared, &options().node("n1"), StartGate::SchedulingGate, &[], None).unwrap();
    let affinity =
        |plan: &Plan| serde_json::to_value(&plan.pod).unwrap()["spec"]["affinity"].clone();
    assert_eq!(affinity(&plan)["podAffinity"], Value::Null);
    plan.set_gate(StartGate::Affinity);
    assert!(
        affinity(&plan)["podAffinity"].is_object() && affinity(&plan)["nodeAffinity"].is_object()
    );
    let spec = plan.pod.spec.as_ref().unwrap();
    assert_eq!(spec.scheduling_gates, None);
}

#[test]
fn spec_fields_are_set_in_pod() {
    let spec = ContainerSpec::new("busybox")
        .command(["sh", "-c"])
        .arguments(["echo $(HOME) $$"])
        .env("A", "$(B)")
        .user("7:8")
        .group("9")
        .working_dir("/srv")
        .hostname("h1")
        .memory(64 << 20)
        .cpu_count(0.5)
        .tcp_port(80)
        .tcp_port(443)
        .shared_memory(1 << 20)
        .mount(Mount::read_only("/etc", "/host"))
        .stop_signal(Signal::INT)
        .stop_grace(Duration::from_secs(3))
        .interactive(Interactive::Terminal)
        .gpus(Gpus::Count(2));
    let pod = pod(&spec, &options());
    let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
    assert_eq!(container["command"], json!(["sh", "-c"]));
    assert_eq!(container["args"], json!(["echo $$(HOME) $$$$"]));
    assert_eq!(container["env"], json!([{"name": "A", "value": "$$(B)"}]));
    assert_eq!(container["securityContext"], json!({"runAsUser": 7, "runAsGroup": 8}));
    assert_eq!(spec["securityContext"]["supplementalGroups"], json!([9]));
    assert_eq!(spec["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}));
    assert_eq!(container["workingDir"], "/srv");
    assert_eq!(spec["hostname"], "h1");
    assert_eq!(
        container["resources"]["limits"],
        json!({"memory": "67108864", "cpu": "500m", "nvidia.com/gpu": "2"})
    );
    assert_eq!(container["ports"][1]["containerPort"], 443);
    assert_eq!(container["ports"][1]["hostPort"], 20_002);
    assert_eq!(spec["volumes"][0]["hostPath"], json!({"path": "/etc"}));
    assert_eq!(container["volumeMounts"][0]["readOnly"], true);
    assert_eq!(spec["volumes"][1]["emptyDir"], json!({"medium": "Memory", "sizeLimit": "1048576"}));
    assert_eq!(container["volumeMounts"][1]["mountPath"], "/dev/shm");
    assert_eq!(container["lifecycle"]["stopSignal"], "SIGINT");
    assert_eq!(spec["os"]["name"], "linux");
    assert_eq!(spec["terminationGracePeriodSeconds"], 3);
    assert_eq!((&container["stdin"], &container["tty"]), (&json!(true), &json!(true)));
}

#[test]
fn mount_kind_sets_volume_type() {
    let spec = ContainerSpec::new("busybox").mount(Mount::new("/etc", "/x"));
    for (sources, kind) in [
        (MountSources::Any, Value::Null),
        (MountSources::Folders, json!("Directory")),
        (MountSources::Files, json!("File")),
        (MountSources::Unchecked, Value::Null),
    ] {
        let pod = pod(&spec, &options().mount_sources(sources));
        assert_eq!(pod["spec"]["volumes"][0]["hostPath"]["type"], kind);
    }
}

#[test]
fn absent_fields_keep_image_defaults() {
    let container = container(&ContainerSpec::new("busybox"));
    for field in ["command", "args", "workingDir", "lifecycle"] {
        assert_eq!(container[field], Value::Null, "{field}");
    }
}

#[test]
fn pod_without_requests_is_best_effort() {
    let asks = |spec: &ContainerSpec| {
        let resources = container(spec)["resources"].clone();
        ["limits", "requests"]
            .iter()
            .any(|kind| ["cpu", "memory"].iter().any(|name| resources[kind][name] != Value::Null))
    };
    let bare = ContainerSpec::new("busybox");
    assert!(!asks(&bare));
    for spec in [
        bare.clone().memory(1 << 20),
        bare.clone().cpu_count(1.0),
        bare.clone().cpu_shares(2),
        bare.clone().gpus(Gpus::Count(1)),
    ] {
        assert!(asks(&spec), "{spec:?}");
    }
}

#[test]
fn cpu_shares_become_request_of_their_weight() {
    for (shares, milli) in [(2_u64, 2_u64), (512, 500), (1024, 1000), (262_144, 256_000), (3, 3)] {
        let spec = ContainerSpec::new("busybox").cpu_shares(shares);
        let options = options().cpu_shares(CpuShares::AsRequest);
        let pod = pod(&spec, &options);
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(resources["requests"]["cpu"], format!("{milli}m"));
        assert_eq!(milli * 1024 / 1000, shares, "the text after the kubelet's expansion");
        assert_eq!(resources["limits"], json!({}));
    }
}

#[test]
fn real_time_stop_signal_has_kubernetes_name() {
    for (number, name) in [
        (34, "SIGRTMIN"),
        (37, "SIGRTMIN+3"),
        (49, "SIGRTMIN+15"),
        (50, "SIGRTMAX-14"),
        (63, "SIGRTMAX-1"),
        (64, "SIGRTMAX"),
    ] {
        assert_eq!(super::signal_name(Signal::new(number).unwrap()).unwrap(), name);
    }
}

#[test]
fn unsupported_value_is_refused_with_its_field() {
    let bare = ContainerSpec::new("busybox");
    for (spec, kind, field) in [
        (bare.clone().hostname("a.b"), ErrorKind::Unsupported, "hostname"),
        (bare.clone().hostname("Ab"), ErrorKind::Unsupported, "hostname"),
        (bare.clone().stop_signal(Signal::new(33).unwrap()), ErrorKind::Unsupported, "stop_signal"),
        (
            bare.clone().mount(Mount::new("/a", "/b:c")),
            ErrorKind::InvalidArgument,
            "mounts[0].target",
        ),
        (
            bare.clone().label("big", "x".repeat(300_000)),
            ErrorKind::InvalidArgument,
            "labels[\"big\"]",
        ),
        (ContainerSpec::new("a".repeat(64)), ErrorKind::InvalidArgument, "image"),
    ] {
        let error = try_plan(&spec, &options()).unwrap_err();
        assert_eq!((error.kind(), error.field()), (kind, Some(field)), "{error}");
    }
    let full = options().annotation("team", "x".repeat(300_000));
    let error = try_plan(&bare, &full).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("labels")));
}

#[test]
fn kubernetes_options_are_set_in_pod() {
    let options = options()
        .node("n1")
        .node_label("disk", "ssd")
        .toleration(crate::Toleration::key("k").value("v").effect("NoExecute").seconds(5))
        .service_account("sa")
        .priority_class("high")
        .runtime_class("kata")
        .annotation("team", "a")
        .image_pull_secret("mine")
        .eviction(VoluntaryEviction::Refused);
    let spec = ContainerSpec::new(
        runtime_core::Image::new("r.io/a").auth(RegistryAuth::new("u", "secret")),
    );
    let plan = try_plan(&spec, &options).unwrap();
    assert!(plan.budget);
    assert_eq!(plan.secret.as_ref().map(|secret| secret.registry.as_str()), Some("r.io"));
    let pod = serde_json::to_value(&plan.pod).unwrap();
    assert!(!pod.to_string().contains("secret\""), "the password is not in the pod");
    let spec = &pod["spec"];
    let term = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ["nodeSelectorTerms"][0]["matchFields"][0];
    assert_eq!(*term, json!({"key": "metadata.name", "operator": "In", "values": ["n1"]}));
    assert_eq!(spec["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(
        spec["tolerations"][0],
        json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": 5})
    );
    assert_eq!(spec["serviceAccountName"], "sa");
    assert_eq!(spec["priorityClassName"], "high");
    assert_eq!(spec["runtimeClassName"], "kata");
    assert_eq!(spec["imagePullSecrets"][1]["name"], "mine");
    assert_eq!(pod["metadata"]["annotations"]["team"], "a");
    assert_eq!(pod["metadata"]["annotations"]["container-runtime/belongings"], "secret,budget");
}

/// Expands a text like the kubelet, as third_party/forked/golang/expansion documents it.
fn expand(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if rest.starts_with('(') && rest.contains(')') {
            out.push_str("EXPANDED");
            rest = &rest[rest.find(')').unwrap_or(0) + 1..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

proptest! {
    #[test]
    fn variable_references_are_escaped(text in "[$()a-zA-Z_ ]{0,40}") {
        prop_assert_eq!(expand(&escape(&text)), text);
    }
}
