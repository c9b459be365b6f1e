//! Parts of the cluster die under sessions that go through them.

use runtime_conformance::{CUT_SCRIPT, CutSessions, exec_works};
use runtime_core::Interactive;
use test_engines::{Cluster, Component};

use super::support::{Outcome, Subject};

/// The API server, through which every session goes.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_dies_under_sessions() -> Outcome {
    dies_under_sessions(Component::ApiServer).await
}

/// The kubelet, which the API server hands every session on to.
#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_dies_under_sessions() -> Outcome {
    dies_under_sessions(Component::Kubelet).await
}

/// Sessions are lost with it, whether it is still away when they notice or has come back. What they
/// were in lives on.
async fn dies_under_sessions(component: Component) -> Outcome {
    let subject = Subject::new().await?;
    let spec = subject.script(CUT_SCRIPT).interactive(Interactive::Stdin);
    for away in [true, false] {
        let container = subject.start(&spec).await?;
        let sessions = CutSessions::open(&*container).await?;
        subject.work(move |cluster| Ok(cluster.kill(component)?)).await?;
        if away {
            sessions.are_lost().await.are_freed().await;
            subject.work(move |cluster| restart(cluster, component)).await?;
        } else {
            subject.work(move |cluster| restart(cluster, component)).await?;
            drop(sessions.are_lost().await);
        }
        exec_works(&*container).await?;
    }
    subject.finish().await
}

/// Starts it again, and waits until the kubelet knows its pods: before, it has no sessions in them.
fn restart(cluster: &Cluster, component: Component) -> Outcome {
    cluster.restart(component)?;
    cluster.wait_until_ready()?;
    Ok(cluster.wait_until_it_takes_pods()?)
}
