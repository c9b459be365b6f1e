//! The engine's stream of events.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use runtime_core::{LABEL_SCOPE, Operation, Result, Scope};
use serde_json::json;

use super::json_lines;
use crate::model::engine::Flavour;
use crate::model::events::Message;

/// How long before now the requested events begin, so that none is missed.
pub(crate) const EVENTS_MARGIN: Duration = Duration::from_secs(1);

/// Returns the filters of a request for the events of a scope's containers.
pub(crate) fn filters(flavour: Flavour, scope: &Scope, actions: &[&str]) -> serde_json::Value {
    // With several labels, Podman requires any and Docker all. So only one is sent, and the caller
    // checks the others.
    let label = format!("{LABEL_SCOPE}={scope}");
    match flavour {
        Flavour::Docker => json!({ "type": ["container"], "label": [label], "event": actions }),
        // Podman's filter has other names for the actions than its events, and an unknown name
        // matches no event at all.
        Flavour::Podman => json!({ "type": ["container"], "label": [label] }),
    }
}

/// Parses the body of a response as events.
pub(crate) fn messages(
    operation: Operation,
    bytes: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<Message>> + Send + 'static {
    json_lines::values(operation, bytes)
}
