//! The cluster of the environment, through this library.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use runtime_core::{ContainerSpec, Deadlines, PullPolicy, Scope};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime, Toleration};
use test_engines::{Cluster, HOLLOW};

use super::bare::Bare;
use crate::common::{self, SCOPE, variable};

pub(super) struct Engine {
    /// The account with the rights of the Role.
    pub(super) kubeconfig: PathBuf,
    /// An account with all rights, for the server's metrics and for actions of other clients.
    admin: PathBuf,
    pub(super) namespace: String,
    pub(super) kubectl: PathBuf,
    image: String,
}

/// Nodes of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeKind {
    /// The real node.
    Real,
    /// Hollow nodes, which simulate containers.
    Hollow,
}

impl Engine {
    pub(super) fn from_env() -> Result<Self> {
        Ok(Self {
            kubeconfig: variable("RUNTIME_TEST_KUBECONFIG")?.into(),
            admin: variable("RUNTIME_TEST_KUBECONFIG_ADMIN")?.into(),
            namespace: variable("RUNTIME_TEST_NAMESPACE")?,
            kubectl: variable("RUNTIME_TEST_KUBECTL")?.into(),
            image: common::image()?,
        })
    }

    pub(super) fn spec(&self, script: &str) -> ContainerSpec {
        // The image is loaded on the real node, and a hollow node accepts every image.
        ContainerSpec::new(&self.image)
            .pull_policy(PullPolicy::Missing)
            .stop_grace(Duration::from_secs(2))
            .command(["sh", "-c", script])
    }

    pub(super) async fn ours(&self, place: NodeKind) -> Result<KubernetesRuntime> {
        let mut deadlines = Deadlines::default();
        // A server with thousands of pods on two cores is slow, and should be measured without
        // timeouts.
        deadlines.create = Duration::from_secs(300);
        deadlines.start = Duration::from_secs(600);
        deadlines.remove = Duration::from_secs(300);
        let options = KubernetesOptions::new(Scope::new(SCOPE)?)
            .kubeconfig(&self.kubeconfig)
            .namespace(&self.namespace)
            .deadlines(deadlines)
            .schedule_budget(Duration::from_secs(900));
        let options = match place {
            NodeKind::Real => options,
            NodeKind::Hollow => options
                .node_label(HOLLOW, "true")
                .toleration(Toleration::key(HOLLOW).effect("NoSchedule")),
        };
        Ok(KubernetesRuntime::connect(options).await?)
    }

    /// Connects bare kube with the rights of the Role.
    pub(super) async fn bare(&self) -> Result<Bare> {
        Bare::connect(&self.kubeconfig, &self.namespace).await
    }

    /// Connects bare kube with all rights.
    pub(super) async fn admin(&self) -> Result<Bare> {
        Bare::connect(&self.admin, &self.namespace).await
    }

    /// Runs `work` on the cluster concurrently with the tasks of this program.
    pub(super) async fn on_cluster<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cluster) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        tokio::task::spawn_blocking(move || work(&Cluster::of_checkout()?)).await?
    }

    /// Removes all containers of the bench with one request, and waits until they are gone.
    pub(super) async fn clear(&self) -> Result<()> {
        self.admin().await?.clear().await
    }
}
