//! Parts of the cluster die during sessions that pass through them.

use runtime_conformance::{BoxError, EngineControl};
use runtime_core::async_trait;
use test_engines::Component;
use test_support::{Connection as _, sessions_die_with};

use super::support::{Outcome, Subject};

/// The API server, which forwards every session.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_dies_under_sessions() -> Outcome {
    dies_under_sessions(Component::ApiServer).await
}

/// The kubelet, to which the API server forwards every session.
#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_dies_under_sessions() -> Outcome {
    dies_under_sessions(Component::Kubelet).await
}

async fn dies_under_sessions(component: Component) -> Outcome {
    let subject = Subject::new().await?;
    sessions_die_with(&Part { subject: &subject, component }, &subject).await?;
    subject.finish().await
}

/// Part of the cluster.
struct Part<'a> {
    subject: &'a Subject,
    component: Component,
}

#[async_trait]
impl EngineControl for Part<'_> {
    async fn kill(&self) -> Result<(), BoxError> {
        let component = self.component;
        self.subject.work(move |cluster| Ok(cluster.kill(component)?)).await
    }

    /// Starts the part again, and waits until the kubelet has loaded its pods, because before that it opens
    /// no sessions in them.
    async fn start(&self) -> Result<(), BoxError> {
        let component = self.component;
        self.subject
            .work(move |cluster| {
                cluster.restart(component)?;
                cluster.wait_until_ready()?;
                Ok(cluster.wait_until_it_takes_pods()?)
            })
            .await
    }
}
