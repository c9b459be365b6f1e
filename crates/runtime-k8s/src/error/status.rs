//! The `Status` with which the API server reports a failure.

use serde::Deserialize;

use crate::json;

/// A failure that the server reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    #[serde(deserialize_with = "json::number_or_zero")]
    pub(crate) code: u16,
    #[serde(deserialize_with = "json::text")]
    pub(crate) reason: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) message: String,
    pub(crate) details: Option<StatusDetails>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct StatusDetails {
    #[serde(deserialize_with = "json::text")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) name: String,
    pub(crate) retry_after_seconds: Option<u32>,
    #[serde(deserialize_with = "json::nullable")]
    pub(crate) causes: Vec<Cause>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Cause {
    #[serde(deserialize_with = "json::text")]
    pub(crate) reason: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) message: String,
    #[serde(deserialize_with = "json::text")]
    pub(crate) field: String,
}
