//! The cluster of the environment, reached through this library.

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
    /// An account that may do anything: it reads the server's own figures, and is whoever else
    /// works on the cluster.
    admin: PathBuf,
    pub(super) namespace: String,
    pub(super) kubectl: PathBuf,
    image: String,
}

/// Where pods go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To the real node.
    Real,
    /// To hollow nodes, which run them in name only.
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
        // It is on the real node, and a hollow one takes every image for one that is there.
        ContainerSpec::new(&self.image)
            .pull_policy(PullPolicy::Missing)
            .stop_grace(Duration::from_secs(2))
            .command(["sh", "-c", script])
    }

    pub(super) async fn ours(&self, place: Place) -> Result<KubernetesRuntime> {
        let mut deadlines = Deadlines::default();
        // A server with thousands of pods on two cores takes its time, and is to be measured.
        deadlines.create = Duration::from_secs(300);
        deadlines.start = Duration::from_secs(600);
        deadlines.remove = Duration::from_secs(300);
        let options = KubernetesOptions::new(Scope::new(SCOPE)?)
            .kubeconfig(&self.kubeconfig)
            .namespace(&self.namespace)
            .deadlines(deadlines)
            .schedule_budget(Duration::from_secs(900));
        let options = match place {
            Place::Real => options,
            Place::Hollow => options
                .node_label(HOLLOW, "true")
                .toleration(Toleration::key(HOLLOW).effect("NoSchedule")),
        };
        Ok(KubernetesRuntime::connect(options).await?)
    }

    /// Bare kube with the rights of the Role.
    pub(super) async fn bare(&self) -> Result<Bare> {
        Bare::connect(&self.kubeconfig, &self.namespace).await
    }

    /// Bare kube with all rights.
    pub(super) async fn admin(&self) -> Result<Bare> {
        Bare::connect(&self.admin, &self.namespace).await
    }

    /// Works on the cluster beside this program's own tasks.
    pub(super) async fn on_cluster<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cluster) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        tokio::task::spawn_blocking(move || work(&Cluster::of_checkout()?)).await?
    }

    /// Removes all that the bench has made, in one request, and waits until it is gone.
    pub(super) async fn clear(&self) -> Result<()> {
        self.admin().await?.clear().await
    }
}
