//! NodeHealth of nodes.
//!
//! This requires the right to read nodes, which a role in a namespace cannot grant. Without it the
//! health is unknown, and a pod that has vanished was removed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use runtime_core::ErrorKind;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::client::Client;
use crate::model::api::Node;

/// How long the health of a node is cached.
const HEALTH_TTL: Duration = Duration::from_secs(5);
/// Timeout of a request.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// The cached health of nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    client: Client,
    refused: AtomicBool,
    known: Mutex<HashMap<String, (NodeHealth, Instant)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeHealth {
    /// The node reports its status.
    Well,
    /// The node is gone, or has stopped to report.
    Lost,
    /// The node has no status, or the caller may not read nodes.
    Unknown,
}

impl Nodes {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, refused: AtomicBool::new(false), known: Mutex::default() }
    }

    /// Returns the health of a node, cached for some seconds.
    pub(crate) async fn health(&self, name: &str) -> NodeHealth {
        if self.refused.load(Ordering::Relaxed) {
            return NodeHealth::Unknown;
        }
        let mut known = self.known.lock().await;
        if let Some((health, at)) = known.get(name)
            && at.elapsed() < HEALTH_TTL
        {
            return *health;
        }
        let health = match tokio::time::timeout(HEALTH_TIMEOUT, self.client.node(name)).await {
            Ok(Ok(node)) => health_of(&node),
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => NodeHealth::Lost,
            Ok(Err(error)) => {
                if error.kind() == ErrorKind::PermissionDenied {
                    self.refused.store(true, Ordering::Relaxed);
                }
                NodeHealth::Unknown
            }
            Err(_) => NodeHealth::Unknown,
        };
        known.insert(name.to_owned(), (health, Instant::now()));
        health
    }
}

/// Returns the health from the status of a node. A node that reports not to be ready is healthy in
/// this sense; a silent node has the status Unknown.
fn health_of(node: &Node) -> NodeHealth {
    match node.status.conditions.iter().find(|condition| condition.kind == "Ready") {
        Some(ready) if ready.status == "Unknown" => NodeHealth::Lost,
        Some(_) => NodeHealth::Well,
        None => NodeHealth::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reporting_node_is_well() {
        for (status, health) in
            [("True", NodeHealth::Well), ("False", NodeHealth::Well), ("Unknown", NodeHealth::Lost)]
        {
            let node: Node = serde_json::from_value(json!({
                "status": {"conditions": [{"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": status}]}
            }))
            .unwrap();
            assert_eq!(health_of(&node), health);
        }
        assert_eq!(health_of(&Node::default()), NodeHealth::Unknown);
    }
}
