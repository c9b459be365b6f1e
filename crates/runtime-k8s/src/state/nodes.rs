//! Whether a node is still there.
//!
//! It takes the right to read nodes, which a role in a namespace cannot give. Without it nothing
//! is known, and a vanished pod was removed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use runtime_core::ErrorKind;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::client::Client;
use crate::model::api::Node;

/// How long an answer is good.
const FRESH: Duration = Duration::from_secs(5);
/// How long to wait for one.
const DEADLINE: Duration = Duration::from_secs(3);

/// What is known of nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    client: Client,
    refused: AtomicBool,
    known: Mutex<HashMap<String, (Health, Instant)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// It reports.
    Well,
    /// It is gone, or has stopped to report.
    Lost,
    /// Nobody says, or this caller may not ask.
    Unknown,
}

impl Nodes {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, refused: AtomicBool::new(false), known: Mutex::default() }
    }

    /// What is known of a node, for some seconds without a new question.
    pub(crate) async fn health(&self, name: &str) -> Health {
        if self.refused.load(Ordering::Relaxed) {
            return Health::Unknown;
        }
        let mut known = self.known.lock().await;
        if let Some((health, at)) = known.get(name)
            && at.elapsed() < FRESH
        {
            return *health;
        }
        let health = match tokio::time::timeout(DEADLINE, self.client.node(name)).await {
            Ok(Ok(node)) => health_of(&node),
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => Health::Lost,
            Ok(Err(error)) => {
                if error.kind() == ErrorKind::PermissionDenied {
                    self.refused.store(true, Ordering::Relaxed);
                }
                Health::Unknown
            }
            Err(_) => Health::Unknown,
        };
        known.insert(name.to_owned(), (health, Instant::now()));
        health
    }
}

/// A node that reports that it is not ready is still there; one that has stopped to report has
/// the status Unknown.
fn health_of(node: &Node) -> Health {
    match node.status.conditions.iter().find(|condition| condition.kind == "Ready") {
        Some(ready) if ready.status == "Unknown" => Health::Lost,
        Some(_) => Health::Well,
        None => Health::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_that_reports_is_there() {
        for (status, health) in
            [("True", Health::Well), ("False", Health::Well), ("Unknown", Health::Lost)]
        {
            let node: Node = serde_json::from_value(json!({
                "status": {"conditions": [{"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": status}]}
            }))
            .unwrap();
            assert_eq!(health_of(&node), health);
        }
        assert_eq!(health_of(&Node::default()), Health::Unknown);
    }
}
