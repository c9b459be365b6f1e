//! JSON patches (RFC 6902), limited to the operations that clients of an API server send.

use serde_json::Value;

/// Applies a patch, all of it or nothing. The error is the API server's message.
pub(crate) fn apply(object: &Value, patch: &Value) -> Result<Value, String> {
    let mut changed = object.clone();
    for operation in patch.as_array().ok_or("the patch is not a list")? {
        let path = operation["path"].as_str().ok_or("an operation has no path")?;
        let value = operation["value"].clone();
        match operation["op"].as_str().unwrap_or_default() {
            "test" if changed.pointer(path).unwrap_or(&Value::Null) == &value => {}
            "test" => return Err(format!("testing path {path} failed")),
            "replace" => match changed.pointer_mut(path) {
                Some(old) => *old = value,
                None => return Err(format!("replace operation does not apply: {path}")),
            },
            "add" => add(&mut changed, path, value)?,
            "remove" => remove(&mut changed, path)?,
            other => return Err(format!("unexpected kind: {other}")),
        }
    }
    Ok(changed)
}

/// Splits a pointer into its parent object or list, and the key or index in the parent.
fn parent<'a>(object: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), String> {
    let (before, last) = path.rsplit_once('/').ok_or_else(|| format!("bad path: {path}"))?;
    let parent = object.pointer_mut(before).ok_or_else(|| format!("missing path: {path}"))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let (parent, key) = parent(object, path)?;
    match parent {
        Value::Object(fields) => {
            fields.insert(key, value);
            Ok(())
        }
        Value::Array(items) if key == "-" => {
            items.push(value);
            Ok(())
        }
        Value::Array(items) => match key.parse() {
            Ok(at) if at <= items.len() => {
                items.insert(at, value);
                Ok(())
            }
            _ => Err(format!("add operation does not apply: {path}")),
        },
        _ => Err(format!("add operation does not apply: {path}")),
    }
}

fn remove(object: &mut Value, path: &str) -> Result<(), String> {
    let (parent, key) = parent(object, path)?;
    let removed = match parent {
        Value::Object(fields) => fields.remove(&key).is_some(),
        Value::Array(items) => match key.parse() {
            Ok(at) if at < items.len() => {
                items.remove(at);
                true
            }
            _ => false,
        },
        _ => false,
    };
    if removed { Ok(()) } else { Err(format!("remove operation does not apply: {path}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patch_with_failed_test_changes_nothing() {
        let object = json!({"a": {"x/y": 1}, "list": [1]});
        let patch = json!([
            {"op": "test", "path": "/a/x~1y", "value": 1},
            {"op": "add", "path": "/a/new", "value": 2},
            {"op": "add", "path": "/list/-", "value": 2},
            {"op": "remove", "path": "/list/0"},
            {"op": "replace", "path": "/a/x~1y", "value": 3},
        ]);
        let changed = apply(&object, &patch).unwrap();
        assert_eq!(changed, json!({"a": {"x/y": 3, "new": 2}, "list": [2]}));
        assert!(apply(&changed, &patch).is_err());
        assert!(apply(&object, &json!([{"op": "remove", "path": "/b"}])).is_err());
        // An absent member is equal to null only.
        assert!(apply(&object, &json!([{"op": "test", "path": "/b", "value": null}])).is_ok());
    }
}
