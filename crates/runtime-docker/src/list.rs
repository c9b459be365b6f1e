//! Listing containers.

use runtime_core::{
    ContainerId, LABEL_MANAGED, LABEL_SCOPE, LabelFilter, Operation, Result, Scope,
};
use serde_json::json;

use crate::http::Call;
use crate::info::Summary;
use crate::labels::has_labels;
use crate::shared::Shared;

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

impl Shared {
    /// The containers of the scope that have these labels.
    pub(crate) async fn list(
        &self,
        operation: Operation,
        labels: &LabelFilter,
    ) -> Result<Vec<Summary>> {
        // The engine splits at the first '=', so a key that has one cannot be asked for.
        let more: Vec<String> = labels
            .iter()
            .filter(|(key, _)| !key.contains('='))
            .map(|(key, value)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            })
            .collect();
        let call = call(operation, &Filter::Labels(&self.scope, &more));
        let mut listed: Vec<Summary> = self.query(operation, call).await?;
        // Said to every engine and checked all the same: what is given out here can be removed.
        listed.retain(|summary| {
            is_ours(&self.scope, |key| summary.label(key))
                && has_labels(labels, |key| summary.label(key))
        });
        Ok(listed)
    }
}

/// Whether a container was made by this library for this scope.
pub(crate) fn is_ours<'a>(scope: &Scope, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    label(LABEL_MANAGED) == Some("true") && label(LABEL_SCOPE) == Some(scope.as_str())
}
