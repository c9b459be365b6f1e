use super::*;

use std::sync::atomic::{AtomicUsize, Ordering};

use runtime_core::ExitReason;
use serde_json::{Value, json};

use crate::client::tests::{Answer, endless, slow, whole};

#[tokio::test(start_paused = true)]
async fn expired_list_version_is_retried_with_backoff() {
    let lists = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lists);
    let client = crate::client::tests::of(move |_, uri| {
        if uri.contains("watch=true") {
            return (410, r#"{"kind": "Status", "code": 410, "reason": "Expired"}"#);
        }
        count.fetch_add(1, Ordering::Relaxed);
        (200, r#"{"metadata": {"resourceVersion": "1"}, "items": []}"#)
    });
    let pods = Pods::new(client, &Scope::new("t").unwrap());
    pods.live().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let lists = lists.load(Ordering::Relaxed);
    assert!((2..60).contains(&lists), "{lists}");
}

fn pod(uid: &str, version: u64, deleted: bool) -> Value {
    let mut pod = json!({
        "metadata": {"name": uid, "uid": uid, "resourceVersion": version.to_string()},
        "spec": {"nodeName": "n", "containers": [{"name": "main", "image": "busybox"}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "main", "state": {"running": {"startedAt": "2026-11-23T16:00:01Z"}}}]},
    });
    if deleted {
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-23T16:01:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    }
    pod
}

fn line(kind: &str, pod: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": pod}))
}

fn list(version: u64, pods: &[Value]) -> Answer {
    let list = json!({"metadata": {"resourceVersion": version.to_string()}, "items": pods});
    whole(list.to_string())
}

async fn until(pods: &Pods, uid: &str, is: impl Fn(&ObservedPod) -> bool) -> ObservedPod {
    let mut seen = pods.entry(uid).unwrap().subscribe();
    let now = tokio::time::timeout(Duration::from_secs(3600), seen.wait_for(is)).await;
    now.expect("the connection is not opened").unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn removals_by_others_do_not_delay_other_changes() {
    const REMOVED: u64 = 150;
    let name = |number| format!("removed-{number}");
    let client = slow(move |_, uri| {
        let (is_watch, is_events) = (uri.contains("watch=true"), uri.contains("/events"));
        async move {
            if is_events {
                // The server reads all events of a namespace for this request.
                tokio::time::sleep(Duration::from_millis(500)).await;
                return (200, whole(r#"{"items": []}"#));
            }
            let removed = (0..REMOVED).map(|at| pod(&name(at), at + 1, false));
            if !is_watch {
                let pods: Vec<_> = removed.chain([pod("other", 200, false)]).collect();
                return (200, list(200, &pods));
            }
            let mut lines: Vec<_> = (0..REMOVED)
                .map(|at| line("MODIFIED", &pod(&name(at), 300 + at, true)))
                .chain((0..REMOVED).map(|at| line("DELETED", &pod(&name(at), 500 + at, true))))
                .collect();
            let mut ended = pod("other", 700, false);
            ended["status"]["phase"] = json!("Failed");
            ended["status"]["containerStatuses"][0]["state"] = json!({"terminated": {
                "exitCode": 7, "startedAt": "2026-11-23T16:00:01Z",
                "finishedAt": "2026-11-23T16:00:02Z"}});
            lines.push(line("MODIFIED", &ended));
            (200, endless(lines))
        }
    });
    let pods = Pods::new(client, &Scope::new("t").unwrap());
    pods.live().await.unwrap();
    let removed: Vec<_> =
        (0..REMOVED).map(|at| pods.entry(&name(at)).unwrap().subscribe()).collect();
    let begun = Instant::now();
    let exit = until(&pods, "other", |seen| seen.exit().is_some()).await;
    assert_eq!(exit.exit().and_then(|exit| exit.code), Some(7));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    for mut seen in removed {
        let gone = tokio::time::timeout(Duration::from_secs(3600), seen.wait_for(|s| s.gone));
        let exit = gone.await.unwrap().unwrap().exit().cloned().unwrap();
        assert_ne!((exit.reason, exit.code), (ExitReason::Exited, Some(0)));
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn watch_behind_a_response_is_reopened() {
    let watches = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&watches);
    let client = slow(move |_, uri| {
        let is_watch = uri.contains("watch=true");
        let number = if is_watch { count.fetch_add(1, Ordering::Relaxed) } else { 0 };
        async move {
            match (is_watch, number) {
                (false, _) => (200, list(1, &[pod("p", 1, false)])),
                // The load balancer has evicted the first connection.
                (true, 0) => (200, endless(Vec::new())),
                (true, _) => (200, endless(vec![line("MODIFIED", &pod("p", 5, true))])),
            }
        }
    });
    let pods = Pods::new(client, &Scope::new("t").unwrap());
    pods.live().await.unwrap();
    let begun = Instant::now();
    pods.take(serde_json::from_value(pod("p", 4, false)).unwrap());
    until(&pods, "p", |seen| seen.pod.version() == Some(5)).await;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn silent_watch_is_not_current() {
    let client = slow(|_, uri| {
        let is_watch = uri.contains("watch=true");
        async move {
            match is_watch {
                true => (200, endless(Vec::new())),
                false => (200, list(1, &[pod("p", 1, false)])),
            }
        }
    });
    let pods = Pods::new(client, &Scope::new("t").unwrap());
    assert!(!pods.is_current());
    pods.live().await.unwrap();
    assert!(pods.is_current());
    tokio::time::sleep(freshness::STALE_AFTER + Duration::from_secs(1)).await;
    assert!(!pods.is_current());
    pods.live().await.expect("the watch is live");
}
