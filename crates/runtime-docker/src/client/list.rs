//! Lists containers: `/containers/json`.

use runtime_core::{ContainerId, LABEL_MANAGED, LABEL_SCOPE, Operation, Scope};
use serde_json::json;

use super::http::ApiRequest;

/// The containers to list.
pub(crate) enum Filter<'a> {
    /// The containers with these ids.
    Ids(&'a [ContainerId]),
    /// The containers of the scope with these labels, each as `key` or `key=value`.
    Labels(&'a Scope, &'a [String]),
}

/// Returns the request for a list of containers in any state.
pub(crate) fn request(operation: Operation, filter: &Filter<'_>) -> ApiRequest {
    let filters = match filter {
        Filter::Ids(ids) => json!({ "id": ids }),
        Filter::Labels(scope, more) => {
            let mut labels =
                vec![format!("{LABEL_MANAGED}=true"), format!("{LABEL_SCOPE}={scope}")];
            labels.extend_from_slice(more);
            json!({ "label": labels })
        }
    };
    ApiRequest::get(operation, "/containers/json").query("all", 1).query("filters", filters)
}
