//! The watch streams of a real server of version 1.36, event by event, see
//! `tests/k8s/recordings/README.md`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime_core::{EventKind, Exit, ExitReason, LabelFilter, Scope};
use serde_json::{Value, json};

use super::Pods;
use crate::model::api::Pod;
use crate::model::labels::{RELEASED, STOPPED_AT, STOPPED_IMAGE};
use crate::model::pod::observed::ObservedPod;

/// A recorded event: its type and the pod.
type Line = (String, Value);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/k8s/recordings")
}

/// Returns the events of a recording. Its pods were started only by removing their gates, and
/// stopped only by changing their images. The label and the annotation of this library are added
/// here.
fn read(name: &str) -> Vec<Line> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.watch.jsonl"))).unwrap();
    let line = |line: &str| {
        let mut event: Value = serde_json::from_str(line).unwrap();
        let mut object = event["object"].take();
        if object["spec"]["schedulingGates"].is_null() {
            object["metadata"]["labels"][RELEASED] = json!("n");
        }
        if object["spec"]["containers"][0]["image"] == STOPPED_IMAGE {
            object["metadata"]["annotations"][STOPPED_AT] = json!("1795000000000");
        }
        (event["type"].as_str().unwrap().to_owned(), object)
    };
    text.lines().map(line).collect()
}

fn pod(object: &Value) -> Pod {
    serde_json::from_value(object.clone()).unwrap()
}

/// The exit of each recording for a client that has not stopped it.
const ENDS: [(&str, ExitReason, Option<i32>); 20] = [
    ("command-not-found", ExitReason::StartFailed, None),
    ("deleted-by-others-exit-0", ExitReason::Removed, None),
    ("deleted-by-others-ignores-term", ExitReason::Removed, None),
    ("evicted-exit-0", ExitReason::Evicted, None),
    ("exit-0-at-once", ExitReason::Exited, Some(0)),
    ("exit-7", ExitReason::Exited, Some(7)),
    ("image-not-found", ExitReason::Removed, None),
    ("out-of-memory", ExitReason::Exited, Some(0)),
    ("out-of-memory-main", ExitReason::OutOfMemory, Some(137)),
    // Its process continued for a moment, and its end was not observed.
    ("own-deadline", ExitReason::Removed, None),
    ("preempted-exit-0", ExitReason::Evicted, None),
    ("pull-backoff-then-deadline", ExitReason::DeadlineExceeded, None),
    ("stop-before-scheduled-image-then-node", ExitReason::StoppedByUs, None),
    ("stop-by-deadline-exit-0", ExitReason::DeadlineExceeded, None),
    ("stop-by-deadline-exit-42", ExitReason::DeadlineExceeded, Some(42)),
    ("stop-by-deadline-ignores-term", ExitReason::DeadlineExceeded, Some(137)),
    ("stop-by-invalid-image", ExitReason::StoppedByUs, Some(7)),
    ("stop-by-zero-digest", ExitReason::StoppedByUs, Some(7)),
    ("unschedulable-cpu", ExitReason::Removed, None),
    ("unscheduled-deadline-then-node", ExitReason::Removed, None),
];

/// Returns the pods of events, and whether they are gone.
fn parse(events: &[Line]) -> Vec<(Pod, bool)> {
    let parse = |(kind, object): &Line| (pod(object), kind == "DELETED");
    events.iter().map(parse).collect()
}

/// Replays events to an observer from the first of them on, and returns the exit.
fn play<'a>(events: impl IntoIterator<Item = &'a (Pod, bool)>) -> Exit {
    let mut seen: Option<ObservedPod> = None;
    let mut first: Option<Exit> = None;
    for (news, is_gone) in events {
        let now = match seen.take() {
            Some(before) => before.next(news.clone()),
            None => ObservedPod::first(news.clone()),
        };
        let now = if *is_gone { now.last(None) } else { now };
        if let (None, Some(exit)) = (&first, now.exit()) {
            first = Some(exit.clone());
        }
        seen = Some(now);
    }
    let last = seen.unwrap().exit().cloned().unwrap();
    assert_eq!(first, Some(last.clone()), "the first exit is final");
    last
}

/// Returns the events of a server before 1.33, which has no generations.
fn without_generations(mut events: Vec<Line>) -> Vec<Line> {
    for (_, object) in &mut events {
        object["metadata"].as_object_mut().unwrap().remove("generation");
        for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
            condition.as_object_mut().unwrap().remove("observedGeneration");
        }
    }
    events
}

#[test]
fn every_recording_has_a_test() {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .filter_map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            Some(name.strip_suffix(".watch.jsonl")?.to_owned())
        })
        .collect();
    names.sort();
    assert_eq!(names, ENDS.map(|(name, ..)| name));
}

#[tokio::test]
async fn exit_of_recording_is_same_for_every_observer() {
    for (name, reason, code) in ENDS {
        let events = parse(&read(name));
        for begin in 0..events.len() {
            let exit = play(&events[begin..]);
            assert_eq!((exit.reason, exit.code), (reason, code), "{name} from {begin} on");
        }
    }
}

#[tokio::test]
async fn exit_of_recording_is_same_after_gap() {
    for (name, reason, code) in ENDS {
        let events = parse(&read(name));
        for begin in 1..events.len() {
            for end in 0..begin {
                // The list after the gap has the current pod.
                let exit = play(events[..end].iter().chain(&events[begin..]));
                assert_eq!(
                    (exit.reason, exit.code),
                    (reason, code),
                    "{name} without {end}..{begin}"
                );
            }
        }
    }
}

#[tokio::test]
async fn exit_without_generations_is_not_success() {
    for (name, reason, code) in ENDS {
        let events = without_generations(read(name));
        let pods = parse(&events);
        let exit = play(&pods);
        assert_eq!((exit.reason, exit.code), (reason, code), "{name}");
        let is_own = matches!(reason, ExitReason::Exited);
        for begin in 0..events.len() {
            let exit = play(&pods[begin..]);
            assert!(is_own || !exit.success(), "{name} from {begin} on: {exit:?}");
            // A pod that is first observed during its deletion does not show that it had ended
            // before.
            let is_shown = events[begin].1["metadata"]["deletionTimestamp"].is_null();
            assert!(!is_shown || (exit.reason, exit.code) == (reason, code), "{name} {exit:?}");
        }
    }
}

#[tokio::test]
async fn exit_after_recorded_stop_is_stopped_by_us() {
    for (name, code) in [
        ("stop-by-deadline-exit-0", Some(0)),
        ("stop-by-deadline-exit-42", Some(42)),
        ("stop-by-deadline-ignores-term", Some(137)),
        ("stop-by-invalid-image", Some(7)),
        ("stop-by-zero-digest", Some(7)),
        ("stop-before-scheduled-image-then-node", None),
    ] {
        let mut events = read(name);
        let image = events[0].1["spec"]["containers"][0]["image"].clone();
        for (_, object) in &mut events {
            let spec = &object["spec"];
            let is_stopped =
                !spec["activeDeadlineSeconds"].is_null() || spec["containers"][0]["image"] != image;
            if is_stopped {
                object["metadata"]["annotations"][STOPPED_AT] = json!("1795000000000");
            }
        }
        let pods = parse(&events);
        for begin in 0..pods.len() {
            let exit = play(&pods[begin..]);
            let want = (ExitReason::StoppedByUs, code);
            assert_eq!((exit.reason, exit.code), want, "{name} from {begin} on");
        }
    }
}

/// Returns the exits that a connection reports if its list has the pod before `begin` and its watch
/// the events from `begin` on.
async fn watched(events: &[Line], begin: usize) -> Vec<Exit> {
    let line = |(kind, object): &Line| format!("{}\n", json!({"type": kind, "object": object}));
    let stream: &'static str = events[begin..].iter().map(line).collect::<String>().leak();
    let listed: Vec<&Value> = events[..begin].last().iter().map(|(_, object)| object).collect();
    let list: &'static str =
        json!({"metadata": {"resourceVersion": "1"}, "items": listed}).to_string().leak();
    let client = crate::client::tests::of(move |_, uri| match uri {
        uri if uri.contains("watch=true") => (200, stream),
        uri if uri.contains("/pods") => (200, list),
        uri if uri.contains("/events") => (200, r#"{"items": []}"#),
        _ => (403, r#"{"kind": "Status", "code": 403, "reason": "Forbidden"}"#),
    });
    let pods = Pods::new(client, &Scope::new("t").unwrap());
    let mut told = pods.listen(LabelFilter::new());
    pods.live().await.unwrap();
    let mut exits = Vec::new();
    loop {
        let event = tokio::time::timeout(Duration::from_secs(30), told.recv()).await;
        match event.unwrap().unwrap().unwrap().kind {
            EventKind::Exited(exit) => exits.push(exit),
            EventKind::Removed => return exits,
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn watch_reports_exit_of_recording_once() {
    for (name, reason, code) in ENDS {
        let events = read(name);
        for begin in 0..events.len() {
            let exits = watched(&events, begin).await;
            let exits: Vec<_> = exits.iter().map(|exit| (exit.reason, exit.code)).collect();
            assert_eq!(exits, [(reason, code)], "{name} from {begin} on");
        }
    }
}
