//! Recorded responses of real engines, and their conversion.

use std::time::Duration;

use runtime_core::{Capability, ContainerStatus, ExitReason, Signal, TcpPortBinding};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::capabilities::capabilities;
use crate::model::engine::{Engine, Flavour};
use crate::model::info::Summary;
use crate::model::inspect::Inspect;

const DOCKER_20: &str = include_str!("recorded/docker-20.10.json");
const DOCKER_28: &str = include_str!("recorded/docker-28.5.json");
const PODMAN_4: &str = include_str!("recorded/podman-4.3.json");
const ALL: [&str; 3] = [DOCKER_20, DOCKER_28, PODMAN_4];

fn response<T: DeserializeOwned>(recorded: &str, name: &str) -> T {
    let mut all: Value = serde_json::from_str(recorded).unwrap();
    serde_json::from_value(all[name].take()).unwrap()
}

/// Returns the engine of a recording, with a change to its `/info`.
fn engine_with(recorded: &str, change: impl FnOnce(&mut Value)) -> Engine {
    let mut info: Value = response(recorded, "info");
    change(&mut info);
    Engine::from_responses(response(recorded, "version"), serde_json::from_value(info).unwrap())
        .unwrap()
}

pub(crate) fn engine(recorded: &str) -> Engine {
    engine_with(recorded, |_| {})
}

/// Returns a response of Docker 20.10 as text.
pub(crate) fn text(name: &str) -> String {
    response::<Value>(DOCKER_20, name).to_string()
}

pub(crate) fn docker() -> Engine {
    engine(DOCKER_20)
}

pub(crate) fn podman() -> Engine {
    engine(PODMAN_4)
}

/// Returns the recorded Podman as another release.
pub(crate) fn podman_release(release: &str) -> Engine {
    let mut version: Value = response(PODMAN_4, "version");
    version["Version"] = release.into();
    if release >= "5.8" {
        version["ApiVersion"] = "1.44".into();
    }
    version["Components"][0]["Version"] = release.into();
    Engine::from_responses(serde_json::from_value(version).unwrap(), response(PODMAN_4, "info"))
        .unwrap()
}

#[test]
fn newer_podman_returns_exact_log_times_and_reports_out_of_memory() {
    let of = |release| {
        let can = capabilities(&podman_release(release));
        (can.oom_reason, can.limits.log_time_unit)
    };
    let second = Some(Duration::from_secs(1));
    assert_eq!(of("4.9.5"), (false, second));
    assert_eq!(of("5.4.2"), (true, second));
    assert_eq!(of("5.8.6"), (true, None));
}

#[test]
fn terminal_size_at_start_needs_newer_docker() {
    let size_at_start = [docker(), engine(DOCKER_28), podman(), podman_release("5.8.6")];
    assert_eq!(size_at_start.map(|e| e.sets_size_at_start()), [false, true, false, false]);
}

#[test]
fn engines_are_identified() {
    let shown = ALL.map(|recorded| engine(recorded).to_string());
    assert_eq!(
        shown,
        [
            "Docker Engine 20.10.24+dfsg1 (API 1.41)",
            "Docker Engine 28.5.2+dfsg4 (API 1.51)",
            "Podman Engine 4.3.1 (API 1.41)"
        ]
    );
    assert_eq!(docker().flavour, Flavour::Docker);
    assert_eq!(podman().flavour, Flavour::Podman);
}

#[test]
fn created_and_running_containers_have_info() {
    for recorded in ALL {
        let created = response::<Inspect>(recorded, "created").info(None);
        assert_eq!(created.status, ContainerStatus::Created);
        assert_eq!((created.started_at, created.ended_at, &created.exit), (None, None, &None));
        assert_eq!(created.tcp_ports, []);

        let running = response::<Inspect>(recorded, "running").info(None);
        assert_eq!(running.status, ContainerStatus::Running);
        assert_eq!(running.name, "recorded");
        assert_eq!(running.id.as_str().len(), 64);
        assert_eq!(running.image.requested.as_deref(), Some("registry.example/test/busybox:1"));
        assert!(running.image.id.as_ref().unwrap().starts_with("sha256:"));
        assert_eq!(running.labels.len(), 1);
        assert_eq!(running.labels["own/label"], "a=b");
        assert!(running.started_at > running.created_at);
        assert_eq!((running.ended_at, &running.exit, &running.message), (None, &None, &None));
        assert_eq!((running.memory, running.cpu_count), (Some(64 << 20), Some(0.5)));
        let [TcpPortBinding { host_port, container_port: 80 }] = running.tcp_ports[..] else {
            panic!("{:?}", running.tcp_ports)
        };
        assert!(host_port > 1024);
    }
}

#[test]
fn ended_containers_have_exit() {
    for recorded in ALL {
        let exited = response::<Inspect>(recorded, "exited").info(None);
        let exit = exited.exit.unwrap();
        assert_eq!(exited.status, ContainerStatus::Exited);
        assert_eq!(
            (exit.code, exit.reason, exit.signal),
            (Some(137), ExitReason::Signaled, Some(Signal::KILL))
        );
        assert_eq!((exit.ended_at, exited.tcp_ports.len()), (exited.ended_at, 0));
        assert!(exited.ended_at.unwrap() > exited.started_at.unwrap());
    }
    let reason = |recorded| response::<Inspect>(recorded, "oom").exit().unwrap().reason;
    assert_eq!(
        ALL.map(reason),
        [
            ExitReason::OutOfMemory,
            ExitReason::OutOfMemory,
            // Podman 4.3 does not report it.
            ExitReason::Signaled
        ]
    );
}

#[test]
fn unexplained_kill_with_memory_limit_is_detected() {
    let is_unexplained = |change: &dyn Fn(&mut Inspect)| {
        let mut inspect: Inspect = response(DOCKER_20, "oom");
        inspect.state.oom_killed = false;
        change(&mut inspect);
        inspect.is_unexplained_kill()
    };
    assert!(is_unexplained(&|_| ()));
    assert!(is_unexplained(&|inspect| "removing".clone_into(&mut inspect.state.status)));
    assert!(!is_unexplained(&|inspect| inspect.state.oom_killed = true));
    assert!(!is_unexplained(&|inspect| inspect.host_config.memory = 0));
    assert!(!is_unexplained(&|inspect| inspect.state.exit_code = 143));
    assert!(!is_unexplained(&|inspect| "running".clone_into(&mut inspect.state.status)));
}

#[test]
fn failed_start_is_an_exit() {
    for recorded in [DOCKER_20, DOCKER_28] {
        let failed = response::<Inspect>(recorded, "failed").info(None);
        let exit = failed.exit.unwrap();
        assert_eq!(failed.status, ContainerStatus::Exited);
        assert_eq!((exit.code, exit.reason, exit.ended_at), (None, ExitReason::StartFailed, None));
        assert!(exit.message.unwrap().contains("/no/such"));
    }
    // Podman does not record it, but this process does.
    let failed: Inspect = response(PODMAN_4, "failed");
    assert_eq!(failed.info(None).status, ContainerStatus::Created);
    let known = runtime_core::Exit::new(ExitReason::StartFailed);
    assert_eq!(failed.info(Some(known)).status, ContainerStatus::Exited);
}

#[test]
fn listed_containers_have_info() {
    for recorded in ALL {
        let listed: Vec<Summary> = response(recorded, "list");
        let [container] = &listed[..] else { panic!("{listed:?}") };
        let info = container.info(None);
        assert_eq!((info.status, info.name.as_str()), (ContainerStatus::Running, "recorded"));
        assert_eq!(info.labels["own/label"], "a=b");
        assert_eq!(info.image.requested.as_deref(), Some("registry.example/test/busybox:1"));
        assert_eq!(info.tcp_ports.len(), 1);
        assert!(info.created_at.is_some());
        assert_eq!((info.started_at, info.exit), (None, None));
    }
}

fn changed(recorded: &str, name: &str, change: impl FnOnce(&mut Value)) -> Inspect {
    let mut value: Value = response(recorded, name);
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

#[test]
fn states_of_engines_map_to_status() {
    for (name, running, status) in [
        ("configured", false, ContainerStatus::Created),
        ("initialized", false, ContainerStatus::Created),
        ("paused", true, ContainerStatus::Running),
        ("restarting", true, ContainerStatus::Running),
        ("stopping", true, ContainerStatus::Running),
        ("stopped", false, ContainerStatus::Exited),
        ("dead", false, ContainerStatus::Exited),
        // Unknown states.
        ("hibernating", true, ContainerStatus::Running),
        ("hibernating", false, ContainerStatus::Exited),
    ] {
        let inspect = changed(DOCKER_20, "running", |value| {
            value["State"]["Status"] = name.into();
            value["State"]["Running"] = running.into();
        });
        assert_eq!(inspect.status(), status, "{name}");
    }
}

#[test]
fn kill_by_removal_has_reason_removed() {
    let removing = |code: i64| {
        changed(DOCKER_20, "exited", |value| {
            value["State"]["Status"] = "removing".into();
            value["State"]["ExitCode"] = code.into();
        })
        .exit()
        .unwrap()
    };
    assert_eq!((removing(137).reason, removing(137).code), (ExitReason::Removed, None));
    assert_eq!((removing(0).reason, removing(0).code), (ExitReason::Exited, Some(0)));
}

#[test]
fn start_after_end_is_set_to_end() {
    let inspect = changed(DOCKER_20, "exited", |value| {
        value["State"]["StartedAt"] = "2026-11-23T16:39:01.306806439Z".into();
        value["State"]["FinishedAt"] = "2026-11-23T16:39:01.305185278Z".into();
    });
    let info = inspect.info(None);
    assert_eq!(info.started_at, info.ended_at);
    assert!(info.ended_at.is_some());
}

#[test]
fn port_on_ipv4_and_ipv6_is_listed_once() {
    let inspect = changed(DOCKER_20, "running", |value| {
        value["NetworkSettings"]["Ports"] = serde_json::json!({
            "80/tcp": [{"HostIp": "::", "HostPort": "2"}, {"HostIp": "0.0.0.0", "HostPort": "1"}],
            "81/tcp": [{"HostIp": "::", "HostPort": "3"}],
            "82/tcp": null,
            "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "4"}],
        });
    });
    let ports: Vec<_> =
        inspect.info(None).tcp_ports.iter().map(|p| (p.container_port, p.host_port)).collect();
    assert_eq!(ports, [(80, 1), (81, 3)]);
}

#[test]
fn capabilities_depend_on_configuration() {
    let has = |engine: &Engine, capability| capabilities(engine).has(capability);
    for recorded in [DOCKER_20, DOCKER_28] {
        let engine = engine(recorded);
        // The older release has a containerd that keeps exits, and does not lose the last output.
        let differ = [Capability::ExitWhileAway, Capability::LogsAtExit];
        for capability in differ {
            assert_eq!(has(&engine, capability), recorded == DOCKER_20, "{capability}");
        }
        let missing: Vec<_> = capabilities(&engine)
            .missing()
            // These depend on the host of the engine.
            .filter(|c| !matches!(c, Capability::ExecSignal | Capability::ExecDescendants))
            .filter(|c| !differ.contains(c))
            .collect();
        assert_eq!(
            missing,
            [
                Capability::DeferredPull,
                Capability::GpusById,
                Capability::GpusByCount,
                Capability::LogsExactBytes
            ]
        );
        assert_eq!(capabilities(&engine).limits.minimum_memory, Some(6 << 20));
        assert_eq!(capabilities(&engine).limits.stop_grace_unit, Some(Duration::from_secs(1)));
    }
    for lacking in [Capability::PullProgress, Capability::OomReason, Capability::GpusByCount] {
        assert!(!has(&podman(), lacking), "{lacking}");
    }
    let no_cgroups = engine_with(DOCKER_20, |info| info["CgroupDriver"] = "none".into());
    for lacking in [
        Capability::MemoryLimit,
        Capability::CpuCount,
        Capability::CpuShares,
        Capability::OomReason,
        Capability::StatsCpu,
    ] {
        assert!(!has(&no_cgroups, lacking), "{lacking}");
    }
    assert_eq!(no_cgroups.warnings().len(), 1);
    assert_eq!(capabilities(&no_cgroups).limits.minimum_memory, None);
    for (switch, capability) in [
        ("MemoryLimit", Capability::MemoryLimit),
        ("CpuCfsQuota", Capability::CpuCount),
        ("CPUShares", Capability::CpuShares),
    ] {
        let without = engine_with(DOCKER_20, |info| info[switch] = false.into());
        assert!(!has(&without, capability), "{switch}");
    }
    let nvidia = engine_with(DOCKER_20, |info| info["Runtimes"]["nvidia"] = Value::Null);
    assert!(has(&nvidia, Capability::GpusById) && has(&nvidia, Capability::GpusByCount));
    let cdi = engine_with(DOCKER_28, |info| {
        info["DiscoveredDevices"] =
            serde_json::json!([{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]);
    });
    assert!(has(&cdi, Capability::GpusById) && !has(&cdi, Capability::GpusByCount));
}

#[test]
fn api_version_is_negotiated() {
    let version = |api: &str, least: Option<&str>| {
        let mut version: Value = response(DOCKER_20, "version");
        version["ApiVersion"] = api.into();
        version["MinAPIVersion"] = least.into();
        let info = response(DOCKER_20, "info");
        Engine::from_responses(serde_json::from_value(version).unwrap(), info)
            .map(|engine| engine.api.to_string())
            .map_err(|error| error.kind())
    };
    use runtime_core::ErrorKind as K;
    assert_eq!(version("1.41", Some("1.12")), Ok("1.41".to_owned()));
    assert_eq!(version("1.47", Some("1.24")), Ok("1.47".to_owned()));
    assert_eq!(version("1.99", Some("1.44")), Ok("1.53".to_owned()));
    assert_eq!(version("1.44", None), Ok("1.44".to_owned()));
    assert_eq!(version("1.40", Some("1.12")), Err(K::Unsupported));
    assert_eq!(version("1.99", Some("1.90")), Err(K::Unsupported));
    assert_eq!(version("2.0", Some("2.0")), Err(K::Unsupported));
    assert_eq!(version("one", None), Err(K::Internal));
    let windows = engine_info_os("windows");
    assert_eq!(windows, Err(K::Unsupported));
}

fn engine_info_os(os: &str) -> Result<(), runtime_core::ErrorKind> {
    let mut info: Value = response(DOCKER_20, "info");
    info["OSType"] = os.into();
    let info = serde_json::from_value(info).unwrap();
    Engine::from_responses(response(DOCKER_20, "version"), info)
        .map(drop)
        .map_err(|error| error.kind())
}
