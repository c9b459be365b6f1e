//! Tests of the spec validation.

use super::*;
use crate::ErrorKind;

fn all() -> Capabilities {
    let mut all = Capabilities::default();
    for &capability in Capability::ALL {
        all.set(capability, true);
    }
    all.limits.minimum_memory = Some(6 << 20);
    all.limits.stop_grace_unit = Some(Duration::from_secs(1));
    all
}

fn prepare(spec: &ContainerSpec, capabilities: &Capabilities) -> Result<PreparedSpec> {
    spec.prepare(&Scope::new("test").unwrap(), capabilities)
}

fn spec() -> ContainerSpec {
    ContainerSpec::new("busybox")
}

#[test]
fn prepare_oversized_field_returns_invalid_argument() {
    let big = |bytes: usize| "x".repeat(bytes);
    let word = (128 << 10) - 1;
    let many = |count: usize| vec![big(100 << 10); count];
    let filled = |spec: ContainerSpec, count: usize| {
        (0..count).fold(spec, |spec, n| spec.env(format!("E{n}"), big(100 << 10)))
    };
    for (spec, field) in [
        (spec().command(["x".to_owned(), big(word + 1)]), "command[1]"),
        (spec().arguments([big(word + 1)]), "arguments[0]"),
        (spec().env("A", big(word - 1)), "env[\"A\"]"),
        (spec().arguments(many(6)), "arguments[5]"),
        (filled(spec().arguments(many(3)), 3), "env[\"E2\"]"),
        (spec().label("a", big(64 << 10)), "labels[\"a\"]"),
        // Six bytes of JSON per character.
        (spec().label("a", "\u{1}".repeat(11 << 10)), "labels[\"a\"]"),
        (spec().label("a", big(40 << 10)).label("b", big(40 << 10)), "labels[\"b\"]"),
        (spec().working_dir(format!("/{}", big(4095))), "working_dir"),
    ] {
        let error = prepare(&spec, &all()).unwrap_err();
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::InvalidArgument, Some(field)),
            "{error}"
        );
        assert!(error.to_string().len() < 1000, "the error repeats the input");
    }
    for spec in [
        spec().command(["x".to_owned(), big(word)]),
        spec().env("A", big(word - 2)),
        spec().arguments(many(5)),
        spec().label("a", big(63 << 10)),
        spec().working_dir(format!("/{}", big(4094))),
    ] {
        prepare(&spec, &all()).unwrap();
    }
}

#[test]
fn prepare_minimal_spec_without_capabilities_succeeds() {
    let prepared = prepare(&spec(), &Capabilities::default()).unwrap();
    assert_eq!(prepared.image.to_string(), "docker.io/library/busybox:latest");
    assert_eq!(prepared.env.get(NVIDIA_VISIBLE_DEVICES).map(String::as_str), Some("none"));
    assert_eq!(prepared.labels[LABEL_SCOPE], "test");
    assert_eq!(prepared.labels[LABEL_NONCE], prepared.nonce.as_str());
    assert_eq!(prepared.stop_grace, Duration::from_secs(10));
    assert_eq!(prepared.oom_score_adj, 1000);
}

#[test]
fn oom_score_adj_with_requested_resource_is_zero() {
    for asking in [
        spec().memory(1 << 30),
        spec().cpu_count(1.0),
        spec().cpu_shares(10),
        spec().gpus(Gpus::Count(1)),
    ] {
        assert_eq!(asking.oom_score_adj(), 0);
    }
    assert_eq!(spec().gpus(Gpus::Ids(vec![])).oom_score_adj(), 1000);
}

#[test]
fn prepare_cpu_shares_take_precedence_over_cpu_count() {
    let both = spec().cpu_count(0.5).cpu_shares(512);
    assert_eq!(prepare(&both, &all()).unwrap().cpu, CpuLimit::Shares(512));
    let count = spec().cpu_count(0.5);
    assert_eq!(prepare(&count, &all()).unwrap().cpu, CpuLimit::Count(0.5));
}

#[test]
fn round_grace_rounds_up_to_unit_and_minimum() {
    let mut capabilities = all();
    let round = |capabilities: &Capabilities, millis| {
        capabilities.round_grace(Duration::from_millis(millis)).as_millis()
    };
    assert_eq!(
        [0, 1, 500, 1000, 1001].map(|ms| round(&capabilities, ms)),
        [0, 1000, 1000, 1000, 2000]
    );
    capabilities.limits.minimum_stop_grace = Some(Duration::from_secs(2));
    assert_eq!([0, 1000, 2001].map(|ms| round(&capabilities, ms)), [2000, 2000, 3000]);
    assert_eq!(Capabilities::default().round_grace(Duration::from_millis(7)).as_millis(), 7);
}

#[test]
fn prepare_invalid_field_returns_invalid_argument_naming_field() {
    let mut set_and_unset = spec().env("A", "1");
    set_and_unset.unset_env.insert("A".to_owned());
    let wrong = [
        (ContainerSpec::new("A B"), "image"),
        (ContainerSpec::new("a".repeat(64)).pull_policy(PullPolicy::Always), "pull_policy"),
        (spec().name("-x"), "name"),
        (spec().command(Vec::<String>::new()), "command"),
        (spec().command([""]), "command"),
        (spec().command(["a", "b\0"]), "command[1]"),
        (spec().arguments(["\0"]), "arguments[0]"),
        (spec().env("", "x"), "env[\"\"]"),
        (spec().env("A=B", "x"), "env[\"A=B\"]"),
        (spec().env("A", "\0"), "env[\"A\"]"),
        (spec().env(NVIDIA_VISIBLE_DEVICES, "all"), "env[\"NVIDIA_VISIBLE_DEVICES\"]"),
        (spec().unset_env(""), "unset_env[\"\"]"),
        (spec().unset_env("A=B"), "unset_env[\"A=B\"]"),
        (spec().unset_env(NVIDIA_VISIBLE_DEVICES), "unset_env[\"NVIDIA_VISIBLE_DEVICES\"]"),
        (set_and_unset, "unset_env[\"A\"]"),
        (spec().label("", "x"), "labels[\"\"]"),
        (spec().label("k", "\0"), "labels[\"k\"]"),
        (spec().label("container-runtime/scope", "x"), "labels[\"container-runtime/scope\"]"),
        (spec().mount(Mount::new("a", "/b")), "mounts[0].source"),
        (spec().mount(Mount::new("/a", "b")), "mounts[0].target"),
        (spec().mount(Mount::new("/a", "/")), "mounts[0].target"),
        (spec().mount(Mount::new("/a", "/b/../c")), "mounts[0].target"),
        (spec().mount(Mount::new("/a", "/b")).mount(Mount::new("/a", "/b/")), "mounts[1].target"),
        (spec().memory((6 << 20) - 1), "memory"),
        (spec().memory(u64::MAX), "memory"),
        (spec().shared_memory(0), "shared_memory"),
        (spec().cpu_count(0.0), "cpu_count"),
        (spec().cpu_count(-1.0), "cpu_count"),
        (spec().cpu_count(f64::NAN), "cpu_count"),
        (spec().cpu_count(f64::INFINITY), "cpu_count"),
        (spec().cpu_shares(1), "cpu_shares"),
        (spec().cpu_shares(262_145), "cpu_shares"),
        (spec().gpus(Gpus::Ids(vec!["0".into(), "0".into()])), "gpus[1]"),
        (spec().gpus(Gpus::Ids(vec!["".into()])), "gpus[0]"),
        (spec().user(""), "user"),
        (spec().user("a:"), "user"),
        (spec().user("1:2:3"), "user"),
        (spec().user("4294967295"), "user"),
        (spec().group(""), "groups[0]"),
        (spec().group("1").group("a\0"), "groups[1]"),
        (spec().working_dir("tmp"), "working_dir"),
        (spec().tcp_port(0), "tcp_ports[0]"),
        (spec().tcp_port(80).tcp_port(80), "tcp_ports[1]"),
        (spec().hostname(""), "hostname"),
        (spec().hostname("a_b"), "hostname"),
        (spec().hostname("x".repeat(64)), "hostname"),
    ];
    for (spec, field) in wrong {
        let error = prepare(&spec, &all()).unwrap_err();
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::InvalidArgument, Some(field)),
            "{error}"
        );
    }
}

#[test]
fn prepare_missing_capability_returns_unsupported_naming_field() {
    let wanting = [
        (spec().env("1A", "x"), "env[\"1A\"]", Capability::EnvNames),
        (spec().env("A B", "x"), "env[\"A B\"]", Capability::EnvNames),
        (spec().env("..A", "x"), "env[\"..A\"]", Capability::EnvNames),
        (spec().env("\u{e4}", "x"), "env[\"\u{e4}\"]", Capability::EnvNames),
        (spec().env("A", "x").unset_env("A"), "unset_env[\"A\"]", Capability::EnvUnset),
        (spec().memory(1 << 30), "memory", Capability::MemoryLimit),
        (spec().shared_memory(1), "shared_memory", Capability::SharedMemory),
        (spec().cpu_count(1.0), "cpu_count", Capability::CpuCount),
        (spec().cpu_shares(2), "cpu_shares", Capability::CpuShares),
        (spec().gpus(Gpus::Count(1)), "gpus", Capability::GpusByCount),
        (spec().gpus(Gpus::Ids(vec!["0".into()])), "gpus", Capability::GpusById),
        (spec().user("0"), "user", Capability::User),
        (spec().user("root"), "user", Capability::UserName),
        (spec().user("0:root"), "user", Capability::GroupName),
        (spec().group("0"), "groups[0]", Capability::SupplementaryGroups),
        (spec().working_dir("/"), "working_dir", Capability::WorkingDir),
        (spec().hostname("h"), "hostname", Capability::Hostname),
        (spec().mount(Mount::new("/a", "/b")), "mounts[0].source", Capability::Mounts),
        (
            spec().mount(Mount::read_only("/a", "/b")),
            "mounts[0].access",
            Capability::MountsReadOnly,
        ),
        (spec().tcp_port(1), "tcp_ports[0]", Capability::TcpPorts),
        (spec().interactive(Interactive::Stdin), "interactive", Capability::InteractiveStdin),
        (spec().interactive(Interactive::Terminal), "interactive", Capability::Terminal),
        (spec().stop_signal(Signal::INT), "stop_signal", Capability::StopSignal),
        (spec().arguments([""; 0]), "arguments", Capability::EmptyArguments),
    ];
    for (spec, field, capability) in wanting {
        let mut capabilities = all();
        capabilities.set(capability, false);
        let error = prepare(&spec, &capabilities).unwrap_err();
        assert_eq!(
            (error.kind(), error.field(), error.capability()),
            (ErrorKind::Unsupported, Some(field), Some(capability)),
        );
        prepare(&spec, &all()).unwrap();
    }
}

#[test]
fn spec_round_trips_through_json_without_password() {
    let spec =
        ContainerSpec::new(crate::Image::new("r.io/a").auth(RegistryAuth::new("u", "secret")))
            .cpu_count(0.5)
            .stop_signal(Signal::INT)
            .gpus(Gpus::Count(2));
    let json = serde_json::to_string(&spec).unwrap();
    assert!(!json.contains("secret"));
    let mut back: ContainerSpec = serde_json::from_str(&json).unwrap();
    assert_eq!(back.image.auth, None);
    back.image.auth.clone_from(&spec.image.auth);
    assert_eq!(back, spec);
    let minimal: ContainerSpec = serde_json::from_str(r#"{"image":{"reference":"a"}}"#).unwrap();
    assert_eq!(minimal, ContainerSpec::new("a"));
}
