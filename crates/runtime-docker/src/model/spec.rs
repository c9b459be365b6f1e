//! Converts a spec to the body of a create request.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, MountType,
    PortBinding,
};
use runtime_core::{
    ContainerName, CpuLimit, Error, Gpus, ImageRef, Interactive, MountAccess, Nonce, PreparedSpec,
    PullPolicy, RegistryAuth, Result,
};

use super::engine::{Engine, Flavour};
use super::info::LABEL_IMAGE;
use super::labels::{LABEL_OWN, own_as_text};

/// A create request.
#[derive(Debug, Clone)]
pub(crate) struct Create {
    pub(crate) name: ContainerName,
    pub(crate) nonce: Nonce,
    pub(crate) image: ImageRef,
    pub(crate) auth: Option<RegistryAuth>,
    pub(crate) pull_policy: PullPolicy,
    pub(crate) stop_grace: Duration,
    pub(crate) body: ContainerCreateBody,
}

impl Create {
    /// Converts a spec.
    ///
    /// # Errors
    /// `InvalidArgument` for values out of the engine's range.
    pub(crate) fn new(spec: PreparedSpec, engine: &Engine) -> Result<Self> {
        // Without `..`, so that a new field does not compile until it is handled here.
        let PreparedSpec {
            image,
            auth,
            pull_policy,
            name,
            nonce,
            command,
            arguments,
            env,
            unset_env,
            labels,
            mounts,
            interactive,
            memory,
            shared_memory,
            cpu,
            gpus,
            user,
            groups,
            working_dir,
            tcp_ports,
            hostname,
            stop_grace,
            stop_signal,
            oom_score_adj,
        } = spec;
        let (cpu_shares, nano_cpus) = match cpu {
            CpuLimit::None => (None, None),
            CpuLimit::Shares(shares) => (Some(signed("cpu_shares", shares)?), None),
            CpuLimit::Count(count) => (None, Some(nano_cpus(count))),
        };
        let memory = memory.map(|bytes| signed("memory", bytes)).transpose()?;
        let stdin = interactive != Interactive::No;
        let ports: Vec<String> = tcp_ports.iter().map(|port| format!("{port}/tcp")).collect();
        let (plain, binds) = mounts_and_binds(&mounts, engine)?;
        let host_config = HostConfig {
            memory,
            // The default is twice the memory limit, which allows the same amount of swap.
            memory_swap: memory,
            shm_size: shared_memory.map(|bytes| signed("shared_memory", bytes)).transpose()?,
            cpu_shares,
            nano_cpus,
            device_requests: device_request(&gpus, engine).map(|request| vec![request]),
            group_add: some(groups),
            oom_score_adj: Some(oom_score_adj.into()),
            mounts: some(plain),
            binds: some(binds),
            port_bindings: (!ports.is_empty())
                .then(|| ports.iter().map(|port| (port.clone(), Some(vec![any_port()]))).collect()),
            log_config: log_driver(engine)
                .map(|driver| HostConfigLogConfig { typ: Some(driver.to_owned()), config: None }),
            ..HostConfig::default()
        };
        let own = own_as_text(&labels);
        let mut labels: HashMap<String, String> = labels.into_iter().collect();
        labels.insert(LABEL_OWN.to_owned(), own);
        labels.insert(LABEL_IMAGE.to_owned(), image.to_string());
        // A name without a value removes the variable of the image.
        let env = env.into_iter().map(|(name, value)| format!("{name}={value}")).chain(unset_env);
        let body = ContainerCreateBody {
            image: Some(engine_name(&image)),
            entrypoint: command,
            cmd: arguments,
            env: Some(env.collect()),
            labels: Some(labels),
            hostname,
            user,
            working_dir,
            exposed_ports: some(ports),
            open_stdin: Some(stdin),
            // Closes the input at the end of the first attach. Otherwise a process that reads to
            // the end of its input would not end.
            stdin_once: Some(stdin),
            tty: Some(interactive == Interactive::Terminal),
            stop_signal: stop_signal.map(|signal| signal.to_string()),
            stop_timeout: Some(i64::try_from(stop_grace.as_secs()).unwrap_or(i64::MAX)),
            host_config: Some(host_config),
            ..ContainerCreateBody::default()
        };
        Ok(Self { name, nonce, image, auth, pull_policy, stop_grace, body })
    }

    /// Returns `true` if the spec has an empty list of arguments. The engines treat it as absent and
    /// use the image's arguments, unless the request has an entrypoint.
    pub(crate) fn has_empty_arguments(&self) -> bool {
        self.body.entrypoint.is_none() && self.body.cmd.as_ref().is_some_and(Vec::is_empty)
    }
}

/// Returns the name of an image in requests. A tag beside a digest is omitted, because some engines
/// refuse both.
pub(crate) fn engine_name(image: &ImageRef) -> String {
    match image.digest() {
        Some(digest) if !image.is_id() => format!("{}@{digest}", image.name()),
        _ => image.to_string(),
    }
}

/// Returns the log driver to request, `None` for the engine's default. The default is used if it
/// stores the log in files, with the options of the engine's operator. Logs of other drivers are
/// unreadable or lossy: `none` stores nothing, and Docker keeps a small cache for remote drivers
/// (syslog, fluentd, clouds).
fn log_driver(engine: &Engine) -> Option<&'static str> {
    match (engine.flavour, engine.info.logging_driver.as_str()) {
        (Flavour::Docker, "json-file" | "local") => None,
        (Flavour::Docker, _) => Some("json-file"),
        (Flavour::Podman, _) => Some("k8s-file"),
    }
}

/// Returns `true` if that driver keeps bytes that are not UTF-8. Docker's `json-file` stores lines as
/// JSON strings, and replaces such bytes by U+FFFD.
pub(crate) fn keeps_bytes(engine: &Engine) -> bool {
    engine.flavour == Flavour::Podman || engine.info.logging_driver == "local"
}

fn signed(field: &str, number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::invalid(field, format!("{number} is too large")))
}

#[expect(clippy::cast_possible_truncation, reason = "core checks that it is 0.01 to 100000")]
fn nano_cpus(count: f64) -> i64 {
    (count * 1e9).round() as i64
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Converts a mount. Unlike a mount in `binds`, it fails if the source does not exist.
fn bind(mount: &runtime_core::Mount) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.to_string_lossy().into_owned()),
        target: Some(mount.target.clone()),
        read_only: Some(mount.access == MountAccess::ReadOnly),
        ..Mount::default()
    }
}

/// Converts the mounts, and returns the ones that have to be binds separately.
///
/// Podman's Docker API joins the parts of a mount with commas, and splits them again, so `/a,ro`
/// mounts `/a`. Newer releases also parse quotes as CSV. A bind is only split at its colons.
///
/// # Errors
/// `InvalidArgument` if Podman supports a path in neither form.
fn mounts_and_binds(
    mounts: &[runtime_core::Mount],
    engine: &Engine,
) -> Result<(Vec<Mount>, Vec<String>)> {
    let (mut plain, mut binds) = (Vec::new(), Vec::new());
    for (at, mount) in mounts.iter().enumerate() {
        let source = mount.source.to_string_lossy();
        let has = |character: &[char]| {
            if source.contains(character) {
                Some("source")
            } else if mount.target.contains(character) {
                Some("target")
            } else {
                None
            }
        };
        if !engine.is_podman() || has(&[',', '"', '\n', '\r']).is_none() {
            plain.push(bind(mount));
            continue;
        }
        if let Some(field) = has(&[':', '\n', '\r']) {
            return Err(Error::invalid(
                format!("mounts[{at}].{field}"),
                "Podman's Docker API supports no path with a line end, or with a colon and a comma or \
                 quote in the same mount",
            ));
        }
        let access = if mount.access == MountAccess::ReadOnly { "ro" } else { "rw" };
        binds.push(format!("{source}:{}:{access}", mount.target));
    }
    Ok((plain, binds))
}

/// Requests a free port on all IPv4 addresses of the host. Without an address, the engine also
/// allocates a different port for IPv6.
fn any_port() -> PortBinding {
    PortBinding { host_ip: Some("0.0.0.0".to_owned()), host_port: Some(String::new()) }
}

fn device_request(gpus: &Gpus, engine: &Engine) -> Option<DeviceRequest> {
    let by_runtime = |count, ids| DeviceRequest {
        count,
        device_ids: ids,
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    };
    match gpus {
        _ if gpus.is_none() => None,
        Gpus::Count(count) => Some(by_runtime(Some(i64::from(*count)), None)),
        Gpus::Ids(ids) if engine.info.has_nvidia_runtime() => {
            Some(by_runtime(None, Some(ids.clone())))
        }
        Gpus::Ids(ids) => Some(DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(ids.iter().map(|id| format!("nvidia.com/gpu={id}")).collect()),
            ..DeviceRequest::default()
        }),
        // Variants that core adds have no capability here, so they are refused before.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use runtime_core::{ContainerSpec, Scope, Signal};
    use serde_json::{Value, json};

    use super::*;
    use crate::model::capabilities::capabilities;
    use crate::recorded;

    fn create(spec: &ContainerSpec, engine: &Engine) -> Create {
        let scope = Scope::new("test").unwrap();
        let spec = spec.prepare(&scope, &capabilities(engine)).unwrap();
        Create::new(spec, engine).unwrap()
    }

    fn body(spec: &ContainerSpec, engine: &Engine) -> Value {
        let mut body = serde_json::to_value(create(spec, engine).body).unwrap();
        for key in ["container-runtime/nonce", "container-runtime/created-at"] {
            assert!(body["Labels"].as_object_mut().unwrap().remove(key).is_some(), "{key}");
        }
        body
    }

    #[test]
    fn minimal_spec_sets_no_optional_field() {
        assert_eq!(
            body(&ContainerSpec::new("busybox"), &recorded::docker()),
            json!({
                "Image": "docker.io/library/busybox:latest",
                "Env": ["NVIDIA_VISIBLE_DEVICES=none"],
                "Labels": {
                    "container-runtime/managed": "true",
                    "container-runtime/scope": "test",
                    "container-runtime/image": "docker.io/library/busybox:latest",
                    "container-runtime/labels": "{}"
                },
                "OpenStdin": false, "StdinOnce": false, "Tty": false,
                "StopTimeout": 10,
                "HostConfig": {"OomScoreAdj": 1000}
            })
        );
    }

    #[test]
    fn podman_paths_with_commas_become_binds() {
        let (podman, docker) = (recorded::podman(), recorded::docker());
        let spec = |source: &str, target: &str| {
            ContainerSpec::new("busybox").mount(runtime_core::Mount::read_only(source, target))
        };
        let config = |spec: &ContainerSpec, engine| body(spec, engine)["HostConfig"].clone();
        let comma = spec("/m/inj,ro", "/t");
        assert_eq!(config(&comma, &podman)["Binds"], json!(["/m/inj,ro:/t:ro"]));
        assert!(config(&comma, &podman)["Mounts"].is_null());
        assert!(config(&comma, &docker)["Binds"].is_null());
        let colon = config(&spec("/m:ro", "/t"), &podman);
        assert_eq!(
            (&colon["Mounts"][0]["Source"], &colon["Binds"]),
            (&json!("/m:ro"), &Value::Null)
        );
        for (source, target, field) in [
            ("/a:b,c", "/t", "mounts[0].source"),
            ("/a\"", "/t:u", "mounts[0].target"),
            ("/a\nb", "/t", "mounts[0].source"),
        ] {
            let scope = Scope::new("test").unwrap();
            let prepared = spec(source, target).prepare(&scope, &capabilities(&podman)).unwrap();
            let error = Create::new(prepared, &podman).unwrap_err();
            assert_eq!(error.field(), Some(field));
        }
    }

    #[test]
    fn full_spec_sets_every_field() {
        let spec = ContainerSpec::new("r.example/a:1")
            .command(["sh", "-c"])
            .arguments(["true"])
            .env("A", "b=c")
            .label("x/y/z", "1")
            .mount(runtime_core::Mount::read_only("/etc", "/host"))
            .interactive(Interactive::Terminal)
            .memory(64 << 20)
            .shared_memory(1 << 20)
            .cpu_count(1.5)
            .user("alice:users")
            .group("video")
            .working_dir("/srv")
            .tcp_port(80)
            .hostname("box")
            .stop_grace(Duration::from_millis(1500))
            .stop_signal(Signal::INT);
        let body = body(&spec, &recorded::docker());
        for (key, value) in [
            ("Entrypoint", json!(["sh", "-c"])),
            ("Cmd", json!(["true"])),
            ("Env", json!(["A=b=c", "NVIDIA_VISIBLE_DEVICES=none"])),
            ("OpenStdin", json!(true)),
            ("StdinOnce", json!(true)),
            ("Tty", json!(true)),
            ("User", json!("alice:users")),
            ("WorkingDir", json!("/srv")),
            ("Hostname", json!("box")),
            ("StopTimeout", json!(2)),
            ("StopSignal", json!("SIGINT")),
            ("ExposedPorts", json!({"80/tcp": {}})),
        ] {
            assert_eq!(body[key], value, "{key}");
        }
        assert_eq!(body["Labels"]["x/y/z"], "1");
        assert_eq!(
            body["HostConfig"],
            json!({
                "Memory": 64 << 20,
                "MemorySwap": 64 << 20,
                "ShmSize": 1 << 20,
                "NanoCpus": 1_500_000_000,
                "GroupAdd": ["video"],
                "OomScoreAdj": 0,
                "Mounts": [{
                    "Type": "bind", "Source": "/etc", "Target": "/host", "ReadOnly": true
                }],
                "PortBindings": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}]}
            })
        );
    }

    #[test]
    fn cpu_shares_override_cpu_count() {
        let spec = ContainerSpec::new("a").cpu_shares(512).cpu_count(2.0);
        let host = &body(&spec, &recorded::docker())["HostConfig"];
        assert_eq!((&host["CpuShares"], &host["NanoCpus"]), (&json!(512), &Value::Null));
    }

    #[test]
    fn image_name_with_digest_omits_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (asked, named) in [
            (format!("r.example/a:1@{digest}"), format!("r.example/a@{digest}")),
            (digest.clone(), digest.clone()),
            ("a:2".to_owned(), "docker.io/library/a:2".to_owned()),
        ] {
            let body = body(&ContainerSpec::new(asked), &recorded::docker());
            assert_eq!(body["Image"], named);
        }
    }

    #[test]
    fn empty_arguments_differ_from_absent() {
        let wants = |spec: ContainerSpec| create(&spec, &recorded::docker()).has_empty_arguments();
        let none: [&str; 0] = [];
        assert!(wants(ContainerSpec::new("a").arguments(none)));
        assert!(!wants(ContainerSpec::new("a").command(["x"]).arguments(none)));
        assert!(!wants(ContainerSpec::new("a").arguments(["y"])));
        assert!(!wants(ContainerSpec::new("a")));
    }

    #[test]
    fn log_driver_is_readable() {
        let driver = |engine: &Engine, default: &str| {
            let mut engine = engine.clone();
            default.clone_into(&mut engine.info.logging_driver);
            let body = body(&ContainerSpec::new("a"), &engine);
            body["HostConfig"]["LogConfig"]["Type"].as_str().map(str::to_owned)
        };
        for (default, asked) in [
            ("json-file", None),
            ("local", None),
            ("none", Some("json-file")),
            ("syslog", Some("json-file")),
            ("journald", Some("json-file")),
        ] {
            assert_eq!(driver(&recorded::docker(), default).as_deref(), asked, "{default}");
        }
        assert_eq!(driver(&recorded::podman(), "journald").as_deref(), Some("k8s-file"));
    }

    #[test]
    fn gpus_use_available_mechanism() {
        let mut runtime = recorded::docker();
        runtime.info.runtimes.insert("nvidia".to_owned(), serde::de::IgnoredAny);
        let mut cdi = recorded::docker();
        cdi.info.discovered_devices = Some(vec![crate::model::engine::DiscoveredDevice {
            source: "cdi".to_owned(),
            id: "nvidia.com/gpu=0".to_owned(),
        }]);
        let requests = |gpus: Gpus, engine: &Engine| {
            let body = body(&ContainerSpec::new("a").gpus(gpus), engine);
            // Core does not set the variable then.
            assert_eq!(body["Env"], json!([]));
            body["HostConfig"]["DeviceRequests"].clone()
        };
        let ids = Gpus::Ids(vec!["0".to_owned(), "GPU-1".to_owned()]);
        assert_eq!(
            requests(ids.clone(), &runtime),
            json!([{"DeviceIDs": ["0", "GPU-1"], "Capabilities": [["gpu"]]}])
        );
        assert_eq!(
            requests(Gpus::Count(2), &runtime),
            json!([{"Count": 2, "Capabilities": [["gpu"]]}])
        );
        assert_eq!(
            requests(ids, &cdi),
            json!([{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1"]}])
        );
    }
}
