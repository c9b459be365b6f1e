//! Events of the engine.

use std::collections::BTreeMap;
use std::time::SystemTime;

use runtime_core::{ContainerId, Exit};
use serde::Deserialize;

use super::time::from_nanos;

/// An event of the engine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Message {
    #[serde(rename = "Action")]
    action: String,
    #[serde(rename = "Actor")]
    actor: Actor,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    /// The container's labels, and attributes of the event.
    #[serde(rename = "Attributes")]
    attributes: BTreeMap<String, String>,
}

impl Message {
    /// Returns `true` if this is the exit of the container.
    pub(crate) fn is_exit_of(&self, id: &str) -> bool {
        self.action() == "die" && self.actor.id == id
    }

    pub(crate) fn container(&self) -> Option<ContainerId> {
        (!self.actor.id.is_empty()).then(|| ContainerId::new(&self.actor.id))
    }

    pub(crate) fn action(&self) -> &str {
        &self.action
    }

    /// Returns the exit in a `die` event.
    pub(crate) fn exit(&self) -> Option<Exit> {
        let code = self.attribute("exitCode").or_else(|| self.attribute("containerExitCode"))?;
        Some(Exit::from_code(code.parse().ok()?).with_ended_at(from_nanos(self.time_nano)))
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.actor.attributes.get(name).map(String::as_str)
    }

    pub(crate) fn name(&self) -> &str {
        self.attribute("name").unwrap_or_default()
    }

    pub(crate) fn time(&self) -> SystemTime {
        from_nanos(self.time_nano).unwrap_or_else(SystemTime::now)
    }
}
