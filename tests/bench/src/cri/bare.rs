//! The bare generated client: the cost of the calls themselves.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::Channel;

use super::engine::{self, Engine};

/// The same file as in the library.
#[path = "../../../../crates/runtime-cri/src/generated.rs"]
mod cri;

use cri::image_service_client::ImageServiceClient;
use cri::runtime_service_client::RuntimeServiceClient;

/// Label of bare sandboxes and containers.
const SCOPE: &str = "container-runtime/scope";

pub(super) struct Bare {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    calls: AtomicU64,
    logs: PathBuf,
}

impl Bare {
    pub(super) async fn connect(engine: &Engine) -> Result<Self> {
        let path = engine.endpoint.trim_start_matches("unix://").to_owned();
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let channel = tonic::transport::Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
            calls: AtomicU64::new(0),
            logs: engine::log_dir()?,
        })
    }

    /// Returns the number of calls since the last `take_calls`.
    pub(super) fn take_calls(&self) -> u64 {
        self.calls.swap(0, Ordering::Relaxed)
    }

    fn call<T>(&self, request: T) -> T {
        self.calls.fetch_add(1, Ordering::Relaxed);
        request
    }

    /// Runs a command in a container with the call without streams.
    pub(super) async fn exec(&self, container: &str, command: &str) -> Result<()> {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: vec![command.to_owned()],
            timeout: 0,
        };
        let answer = self.runtime.clone().exec_sync(self.call(request)).await?.into_inner();
        ensure!(answer.exit_code == 0, "{command} failed");
        Ok(())
    }

    /// Performs the library's calls for a container that exits immediately, and reads its log file.
    pub(super) async fn once(&self, engine: &Engine, script: &str, number: usize) -> Result<()> {
        let (mut runtime, mut images) = (self.runtime.clone(), self.images.clone());
        let spec = cri::ImageSpec { image: engine.image.clone(), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(spec), verbose: true };
        let image = images.image_status(self.call(request)).await?.into_inner();
        let image = image.image.context("the image is missing")?.id;

        let name = format!("bare-{}-{number}", std::process::id());
        let logs = self.logs.join(&name);
        std::fs::create_dir_all(&logs)?;
        let (sandbox, container) = configs(&name, &logs, image, script);
        let request = cri::RunPodSandboxRequest {
            config: Some(sandbox.clone()),
            runtime_handler: String::new(),
        };
        let pod = runtime.run_pod_sandbox(self.call(request)).await?.into_inner().pod_sandbox_id;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(container),
            sandbox_config: Some(sandbox),
        };
        let id = runtime.create_container(self.call(request)).await?.into_inner().container_id;
        let request = cri::StartContainerRequest { container_id: id.clone() };
        runtime.start_container(self.call(request)).await?;

        // The CRI has no wait; containers are listed as often as in the library.
        let mut pause = Duration::from_millis(10);
        loop {
            let filter = cri::ContainerFilter {
                label_selector: [(SCOPE.to_owned(), name.clone())].into(),
                ..Default::default()
            };
            let request = cri::ListContainersRequest { filter: Some(filter) };
            let listed = runtime.list_containers(self.call(request)).await?.into_inner();
            let state = listed.containers.first().context("the container is gone")?.state();
            if state == cri::ContainerState::ContainerExited {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(50));
        }
        let status = || cri::ContainerStatusRequest { container_id: id.clone(), verbose: false };
        let ended = runtime.container_status(self.call(status())).await?.into_inner();
        let code = ended.status.context("the container has no status")?.exit_code;
        let log = std::fs::read_to_string(logs.join("container.log"))?;
        let lines = log.lines().filter(|line| line.contains(" stdout F ")).count();
        // Before the removal, like in the library, which records the exit.
        runtime.container_status(self.call(status())).await?;
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod };
        runtime.remove_pod_sandbox(self.call(request)).await?;
        std::fs::remove_dir_all(logs)?;
        ensure!(code == 0 && lines == 1, "exit code {code}, and {lines} lines");
        Ok(())
    }
}

/// Returns the configurations that the library uses.
fn configs(
    name: &str,
    logs: &std::path::Path,
    image: String,
    script: &str,
) -> (cri::PodSandboxConfig, cri::ContainerConfig) {
    let labels = || [(SCOPE.to_owned(), name.to_owned())].into();
    let namespaces = || cri::NamespaceOption {
        network: cri::NamespaceMode::Pod.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        ..Default::default()
    };
    let seccomp = || cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
        ..Default::default()
    };
    let sandbox = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: "bench".to_owned(),
            namespace: "bench".to_owned(),
            attempt: 0,
        }),
        hostname: "bench".to_owned(),
        log_directory: logs.to_string_lossy().into_owned(),
        labels: labels(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(seccomp()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let container = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(cri::ImageSpec { image, ..Default::default() }),
        command: ["sh", "-c", script].map(str::to_owned).into(),
        labels: labels(),
        log_path: "container.log".to_owned(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                oom_score_adj: 1000,
                ..Default::default()
            }),
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(seccomp()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    };
    (sandbox, container)
}
