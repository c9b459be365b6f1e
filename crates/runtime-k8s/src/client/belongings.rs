//! The objects that belong to a pod: the Secret of its pull, and its disruption budget.

use runtime_core::{ErrorKind, LABEL_NONCE, Result};
use serde_json::Value;

use super::Client;
use crate::model::api::Pod;
use crate::model::capabilities::Server;
use crate::model::labels::BELONGINGS;
use crate::model::spec::{Plan, belonging_name};
use crate::model::{disruption_budget, secret};

const SECRETS: (&str, &str) = ("/api/v1", "secrets");
const BUDGETS: &str = "poddisruptionbudgets";

/// Returns the path of disruption budgets in the API of this server.
fn budgets(server: &Server) -> (String, &'static str) {
    (format!("/apis/{}", server.policy_api()), BUDGETS)
}

/// Creates the objects that belong to a pod. The pod owns them, so that the cluster deletes them
/// with the pod.
pub(crate) async fn create(
    client: &Client,
    server: &Server,
    plan: &Plan,
    owner: &Value,
) -> Result<()> {
    let name = belonging_name(&plan.nonce);
    if let Some(pull) = &plan.secret {
        let object = secret::object(&name, &plan.labels, owner, pull);
        client.create(SECRETS.0, SECRETS.1, &object).await?;
    }
    if plan.budget {
        let (api, kind) = budgets(server);
        let version = server.policy_api();
        let object = disruption_budget::object(version, &name, &plan.nonce, &plan.labels, owner);
        client.create(&api, kind, &object).await?;
    }
    Ok(())
}

/// Deletes the objects that belong to a pod at once. For a caller without this right the cluster
/// deletes them later.
pub(crate) async fn delete(client: &Client, server: &Server, pod: &Pod) -> Result<()> {
    let Some(nonce) = pod.metadata.labels.get(LABEL_NONCE) else { return Ok(()) };
    let name = belonging_name(nonce);
    for belonging in pod.annotation(BELONGINGS).unwrap_or_default().split(',') {
        let deleted = match belonging {
            "secret" => client.delete(SECRETS.0, SECRETS.1, &name).await,
            "budget" => {
                let (api, kind) = budgets(server);
                client.delete(&api, kind, &name).await
            }
            _ => Ok(()),
        };
        match deleted {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                tracing::debug!(%error, name, "no right to delete an object, which the cluster deletes with its pod");
            }
            deleted => deleted?,
        }
    }
    Ok(())
}
