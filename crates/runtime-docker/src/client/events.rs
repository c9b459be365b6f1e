//! The engine's stream of events.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use runtime_core::{LABEL_SCOPE, Operation, Result, Scope};
use serde_json::json;

use super::json_lines;
use crate::model::engine::Flavour;
use crate::model::events::Message;

/// How much earlier than now events are asked for, so that none is missed.
pub(crate) const EVENTS_MARGIN: Duration = Duration::from_secs(1);

/// The engine's filters for the containers of a scope.
pub(crate) fn filters(flavour: Flavour, scope: &Scope, actions: &[&str]) -> serde_json::Value {
    // Podman wants any of several labels, and Docker all. So one is asked for, and the others are
    // looked at here.
    let label = format!("{LABEL_SCOPE}={scope}");
    match flavour {
        Flavour::Docker => json!({ "type": ["container"], "label": [label], "event": actions }),
        // Its filter knows the actions by other names than its answer, and gives nothing at all
        // for one that it does not know.
        Flavour::Podman => json!({ "type": ["container"], "label": [label] }),
    }
}

/// The engine's events.
pub(crate) fn messages(
    operation: Operation,
    bytes: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<Message>> + Send + 'static {
    json_lines::values(operation, bytes)
}
