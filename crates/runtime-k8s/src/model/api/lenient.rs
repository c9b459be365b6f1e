//! Deserialization of objects as far as they have a known structure.

use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Deserializer};
use serde_json::Value;

use super::{List, Time, WatchLine};
use crate::json::Scalar;

/// Deserializes a time. A malformed one is absent.
pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Time>, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.text().and_then(|text| Time::parse(&text)))
}

/// Deserializes a page of a list. Of an object with another structure only the metadata is used; an
/// object without metadata is skipped.
pub(crate) fn read_list<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<List<T>> {
    match serde_json::from_slice(bytes) {
        Ok(list) => Ok(list),
        Err(error) => {
            let Ok(list) = serde_json::from_slice::<List<Value>>(bytes) else { return Err(error) };
            let items = list.items.into_iter().filter_map(mended).collect();
            Ok(List { metadata: list.metadata, items })
        }
    }
}

/// Deserializes a line of a watch. Of a pod with another structure only the metadata is used.
pub(crate) fn read_line(bytes: &[u8]) -> serde_json::Result<WatchLine> {
    serde_json::from_slice(bytes).or_else(|error| {
        let mut line: Value = serde_json::from_slice(bytes)?;
        let pod = line.get_mut("object").map(Value::take).and_then(mended).map(Box::new);
        match (line.get("type").and_then(Value::as_str), pod) {
            (Some("ADDED" | "MODIFIED"), Some(pod)) => Ok(WatchLine::Changed(pod)),
            (Some("DELETED"), Some(pod)) => Ok(WatchLine::Deleted(pod)),
            _ => Err(error),
        }
    })
}

/// Deserializes an object, or only its metadata.
fn mended<T: DeserializeOwned>(mut object: Value) -> Option<T> {
    if let Ok(object) = serde_json::from_value(object.clone()) {
        return Some(object);
    }
    let metadata = object.get_mut("metadata")?.take();
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    tracing::debug!(name, "an object of the cluster has an unknown structure");
    serde_json::from_value(serde_json::json!({"metadata": metadata})).ok()
}
