//! The budget that forbids the voluntary eviction of a container.

use std::collections::BTreeMap;

use runtime_core::LABEL_NONCE;
use serde_json::{Value, json};

/// Returns the PodDisruptionBudget of one pod, which the cluster deletes with its owner.
///
/// For pods without a controller only a number is valid for `minAvailable`.
pub(crate) fn object(
    api: &str,
    name: &str,
    nonce: &str,
    labels: &BTreeMap<String, String>,
    owner: &Value,
) -> Value {
    json!({
        "apiVersion": api,
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {LABEL_NONCE: nonce}}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disruption_budget_selects_one_pod() {
        let object = object("policy/v1", "b", "abc", &BTreeMap::new(), &json!({"uid": "u"}));
        assert_eq!(object["apiVersion"], "policy/v1");
        assert_eq!(
            object["spec"]["selector"]["matchLabels"],
            json!({"container-runtime/nonce": "abc"})
        );
    }
}
