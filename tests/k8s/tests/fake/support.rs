//! Helpers that the tests on the fake server share.

use std::sync::Arc;

use k8s_tests::fake::{FakeNode, FakeServer};
use runtime_core::{Container, ContainerInfo, ContainerSpec, ContainerStatus, Runtime as _};
use runtime_k8s::KubernetesRuntime;

pub(crate) const IMAGE: &str = "registry.test/busybox:1";

pub(crate) fn spec() -> ContainerSpec {
    ContainerSpec::new(IMAGE).command(["true"])
}

/// Starts a fake server with a node, and connects to it.
pub(crate) async fn cluster(version: &str, node: FakeNode) -> (FakeServer, KubernetesRuntime) {
    let server = FakeServer::with_node(version, node).await;
    let runtime = KubernetesRuntime::connect(server.options()).await.unwrap();
    (server, runtime)
}

/// Creates a container and begins its start, which its node does not complete yet.
pub(crate) async fn starting(
    runtime: &KubernetesRuntime,
) -> (Arc<dyn Container>, tokio::task::JoinHandle<()>) {
    let container = runtime.create_container(&spec()).await.unwrap();
    let start = tokio::spawn({
        let container = Arc::clone(&container);
        async move {
            // A test may end the container before it has started.
            let _ = container.start().await;
        }
    });
    // While held, it has no message.
    info_when(&container, |info| info.message.is_some() || info.status != ContainerStatus::Created)
        .await;
    (container, start)
}

/// Polls the info until it matches.
pub(crate) async fn info_when(
    container: &Arc<dyn Container>,
    wanted: impl Fn(&ContainerInfo) -> bool,
) -> ContainerInfo {
    let poll = async {
        loop {
            let info = container.info().await.unwrap();
            if wanted(&info) {
                return info;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(std::time::Duration::from_secs(30), poll).await;
    found.expect("the info becomes as wanted")
}

/// Polls until the container has this status.
pub(crate) async fn status_is(container: &Arc<dyn Container>, status: ContainerStatus) {
    info_when(container, |info| info.status == status).await;
}
