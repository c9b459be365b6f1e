//! Asks the engine for a list of containers: `/containers/json`.

use runtime_core::{ContainerId, LABEL_MANAGED, LABEL_SCOPE, Operation, Scope};
use serde_json::json;

use super::http::Call;

/// Which containers the engine is asked for.
pub(crate) enum Filter<'a> {
    /// These.
    Ids(&'a [ContainerId]),
    /// Those of the scope with these labels besides, as `key` or `key=value`.
    Labels(&'a Scope, &'a [String]),
}

/// One request for all of them, in whatever state.
pub(crate) fn call(operation: Operation, filter: &Filter<'_>) -> Call {
    let filters = match filter {
        Filter::Ids(ids) => json!({ "id": ids }),
        Filter::Labels(scope, more) => {
            let mut labels =
                vec![format!("{LABEL_MANAGED}=true"), format!("{LABEL_SCOPE}={scope}")];
            labels.extend_from_slice(more);
            json!({ "label": labels })
        }
    };
    Call::get(operation, "/containers/json").query("all", 1).query("filters", filters)
}
