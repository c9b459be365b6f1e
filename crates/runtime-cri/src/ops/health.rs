//! See [`Runtime::health`](runtime_core::Runtime::health).

use runtime_core::{Health, Operation, Result};

use crate::BACKEND;
use crate::client::engine::identify;
use crate::generated as cri;
use crate::host::blocking::run_blocking;
use crate::host::kubelet;
use crate::state::connection::{Connection, POD_NAMESPACE};

/// Returns the identity and the state of the engine.
pub(crate) async fn health(connection: &Connection) -> Result<Health> {
    let context = &connection.context;
    let query = context.deadlines.query;
    let (engine, status) = identify(&connection.client, Operation::Health, query).await?;
    let mut health = Health::new(
        BACKEND,
        engine.name.as_str(),
        engine.version.as_str(),
        context.capabilities.clone(),
    );
    health.api_version = Some(engine.api_version.clone());
    let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
    for condition in conditions.iter().filter(|condition| !condition.status) {
        health.warnings.push(format!(
            "The engine reports that {} is false: {} {}.",
            condition.r#type, condition.reason, condition.message
        ));
    }
    if !context.capabilities.logs {
        health.warnings.push(format!(
            "There are no logs: the engine and this process do not share the directory {}.",
            connection.settings.log_dir.display()
        ));
    }
    health.warnings.extend(kubelet_warning(connection).await?);
    Ok(health)
}

/// Namespaces that are searched for pods. Every node of a cluster has pods in the first. A list of
/// all sandboxes would include those of other scopes.
const NAMESPACES: [&str; 2] = ["kube-system", "default"];

/// Returns a warning if a kubelet uses the same engine, because it removes sandboxes that it did
/// not create.
async fn kubelet_warning(connection: &Connection) -> Result<Option<String>> {
    let mut pods = 0;
    for namespace in NAMESPACES {
        let filter = cri::PodSandboxFilter {
            label_selector: [(POD_NAMESPACE.to_owned(), namespace.to_owned())].into(),
            ..Default::default()
        };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        pods += connection.call(Operation::Health, request).await?.items.len();
    }
    let socket = connection.client.endpoint().socket.display().to_string();
    let runs = run_blocking(move || Ok(kubelet::uses_socket(&socket))).await?;
    Ok(sentence(pods, runs))
}

fn sentence(pods: usize, runs: bool) -> Option<String> {
    let reason = match (pods, runs) {
        (0, false) => return None,
        (0, true) => "it runs on this host".to_owned(),
        (pods, _) => format!("{pods} of the sandboxes are pods"),
    };
    Some(format!(
        "A kubelet uses this engine ({reason}), and removes containers that it did not create: \
         use a separate engine, or the Kubernetes backend."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_is_detected_by_pods_or_process() {
        for (pods, runs, why) in [
            (0, false, None),
            (0, true, Some("(it runs on this host)")),
            (2, false, Some("(2 of the sandboxes are pods)")),
            (2, true, Some("(2 of the sandboxes are pods)")),
        ] {
            let sentence = sentence(pods, runs);
            assert_eq!(sentence.is_some(), why.is_some(), "{sentence:?}");
            assert!(sentence.unwrap_or_default().contains(why.unwrap_or_default()));
        }
    }
}
