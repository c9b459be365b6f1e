use serde_json::{Value, json};

use super::*;
use crate::model::info;
use crate::model::pod::observed::ObservedPod;

#[test]
fn watch_lines_are_deserialized() {
    let line = |text: &str| serde_json::from_str::<WatchLine>(text).unwrap();
    assert!(matches!(
        line(r#"{"type":"ADDED","object":{"kind":"Pod","metadata":{"uid":"u","labels":null}}}"#),
        WatchLine::Changed(pod) if pod.metadata.uid == "u"
    ));
    assert!(matches!(
        line(r#"{"type":"DELETED","object":{"metadata":{"uid":"u"},"spec":{"containers":null}}}"#),
        WatchLine::Deleted(_)
    ));
    assert!(matches!(
        line(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","creationTimestamp":null},"spec":{"containers":null},"status":{}}}"#),
        WatchLine::Bookmark(version) if version == "7"
    ));
    assert!(matches!(
        line(r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#),
        WatchLine::Failed(status) if status.code == 410
    ));
}

#[test]
fn container_is_found_by_name() {
    let pod: Pod = serde_json::from_value(json!({
        "spec": {"containers": [
            {"name": "istio-proxy", "image": "proxy"}, {"name": "main", "image": "ours"},
        ]},
        "status": {"containerStatuses": [
            {"name": "istio-proxy", "restartCount": 1}, {"name": "main", "restartCount": 2},
        ]},
    }))
    .unwrap();
    assert_eq!(pod.container().map(|container| container.image.as_str()), Some("ours"));
    assert_eq!(pod.container_status().map(|status| status.restart_count), Some(2));
    assert_eq!(pod.image_path(), "/spec/containers/1/image");
}

#[test]
fn times_with_and_without_fractions_are_parsed() {
    let time = |text: &str| {
        let Time(time) = Time::parse(text).unwrap();
        time.duration_since(UNIX_EPOCH).unwrap()
    };
    assert_eq!(time("2026-11-23T16:00:00Z").as_secs(), 1_795_449_600);
    assert_eq!(time("2026-11-23T16:00:00.000001Z").subsec_micros(), 1);
    assert_eq!(Time::parse("yesterday"), None);
}

/// Returns a running pod of this backend.
fn plain() -> Value {
    json!({
        "metadata": {
            "name": "web", "uid": "u", "resourceVersion": "7",
            "creationTimestamp": "2026-11-23T16:00:00Z",
            "deletionTimestamp": null, "deletionGracePeriodSeconds": 5,
            "labels": {"container-runtime/scope": "s"},
            "annotations": {"container-runtime/name": "web", "container-runtime/started-at": "1"},
        },
        "spec": {
            "nodeName": "n", "terminationGracePeriodSeconds": 10,
            "schedulingGates": [], "volumes": [{"name": "v", "hostPath": {"path": "/a"}}],
            "containers": [{
                "name": "main", "image": "busybox", "stdin": false, "tty": false,
                "resources": {"limits": {"memory": "64Mi", "cpu": "1"}},
                "ports": [{"containerPort": 80, "hostPort": 20001}],
                "lifecycle": {"stopSignal": "SIGTERM"},
            }],
        },
        "status": {
            "phase": "Failed", "reason": "Evicted", "message": "m",
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-23T16:00:00Z"}],
            "containerStatuses": [{
                "name": "main", "imageID": "i", "restartCount": 0,
                "state": {"terminated": {"exitCode": 3, "startedAt": "2026-11-23T16:00:00Z",
                    "finishedAt": "2026-11-23T16:00:01Z"}},
            }],
        },
    })
}

/// Returns every path to a value of an object.
fn paths(value: &Value, at: &str, out: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.replace('/', "~1"), v)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let path = format!("{at}/{key}");
        paths(child, &path, out);
        out.push(path);
    }
}

/// Deserializes a list with a malformed pod between two valid ones, and computes everything that
/// this backend does.
fn read_between(odd: &Value) -> Vec<String> {
    let list = json!({"metadata": {"resourceVersion": "9"}, "items": [plain(), odd, plain()]});
    let list: List<Pod> = read_list(list.to_string().as_bytes()).unwrap();
    let line = json!({"type": "MODIFIED", "object": odd}).to_string();
    let _ = read_line(line.as_bytes());
    list.items
        .into_iter()
        .map(|pod| {
            let seen = ObservedPod::first(pod);
            let _ = seen.patience();
            let _ = seen.last(None).events_since(Some(&seen));
            let info = info::info(&seen);
            assert!(info.cpu_count.is_none_or(|count| count.is_finite() && count >= 0.0));
            info.name
        })
        .collect()
}

#[tokio::test]
async fn malformed_value_does_not_fail_list() {
    let mut places = Vec::new();
    paths(&plain(), "", &mut places);
    assert!(places.len() > 40);
    let odd = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0),
        json!(70_000),
        json!(""),
        json!("odd"),
        json!("inf"),
        json!("-5Mi"),
        json!("NaN"),
        json!("9999999-01-01T00:00:00Z"),
        json!(true),
        json!([]),
        json!([7]),
        json!({}),
        json!({"a": 7}),
    ];
    for place in &places {
        for value in &odd {
            let mut pod = plain();
            *pod.pointer_mut(place).unwrap() = value.clone();
            let names = read_between(&pod);
            assert!(names.len() >= 2, "{place} {value}");
            let good = names.iter().filter(|name| *name == "web").count();
            assert!(good >= 2, "{place} {value}: {names:?}");
            if !place.starts_with("/metadata") {
                assert_eq!(names.len(), 3, "{place} {value}");
            }
        }
    }
}

#[tokio::test]
async fn missing_field_does_not_fail_list() {
    let mut places = Vec::new();
    paths(&plain(), "", &mut places);
    for place in &places {
        let mut pod = plain();
        let (parent, key) = place.rsplit_once('/').unwrap();
        if let Some(Value::Object(map)) = pod.pointer_mut(parent) {
            map.remove(&key.replace("~1", "/"));
        }
        assert!(read_between(&pod).len() >= 2, "{place}");
    }
}

#[test]
fn malformed_numbers_have_defaults() {
    let pod = |grace: Value| -> Pod {
        serde_json::from_value(json!({"spec": {"terminationGracePeriodSeconds": grace}})).unwrap()
    };
    for (grace, want) in [
        (json!(-5), Some(1)),
        (json!(0), Some(0)),
        (json!("7"), Some(7)),
        (json!(u64::MAX), Some(i64::MAX as u64)),
        (json!(null), None),
        (json!({}), None),
    ] {
        assert_eq!(pod(grace.clone()).spec.termination_grace_period_seconds, want, "{grace}");
    }
    let terminated: Terminated = serde_json::from_value(json!({"exitCode": "x"})).unwrap();
    assert_eq!(terminated.exit_code, -1);
    let terminated: Terminated = serde_json::from_value(json!({})).unwrap();
    assert_eq!(terminated.exit_code, -1, "an end without a code is not a success");
}

#[test]
fn response_without_list_returns_error() {
    for text in ["", "x", "{", "\"x\"", r#"{"items": 7}"#] {
        assert!(read_list::<Pod>(text.as_bytes()).is_err(), "{text}");
    }
    let list: List<Pod> = read_list(br#"{"items": [7, "x", null, {"spec": 7}]}"#).unwrap();
    assert!(list.items.is_empty());
}

#[test]
fn event_matches_pod_by_uid_or_by_name_and_time() {
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-11-23T16:00:00Z"},
    }))
    .unwrap();
    for (event, want) in [
        (serde_json::json!({"involvedObject": {"uid": "u"}}), true),
        (serde_json::json!({"involvedObject": {"uid": "before"}}), false),
        (serde_json::json!({"lastTimestamp": "2026-11-23T16:00:00Z"}), true),
        (serde_json::json!({"eventTime": "2026-11-23T15:59:59.123456Z"}), false),
        (serde_json::json!({"involvedObject": null}), true),
    ] {
        let event: ClusterEvent = serde_json::from_value(event).unwrap();
        assert_eq!(event.is_about(&pod.metadata), want, "{event:?}");
    }
}
