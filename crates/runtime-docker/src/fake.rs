//! A fake engine for failures that real engines do not have on request: timeouts, lost connections,
//! invalid responses.

mod drops;
mod secrets;
mod wait;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use runtime_core::{
    Container, ContainerId, ContainerSpec, Deadlines, Error, ErrorKind, EventKind, EventsOptions,
    ExitReason, LogOptions, Operation, PullPolicy, Result, Runtime, Scope, StopOptions,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use crate::recorded;
use crate::{DockerOptions, DockerRuntime};

/// The reaction to a request.
enum Reply {
    /// Sends a status and a JSON body.
    Json(u16, String),
    /// Sends these bytes and closes the connection.
    Raw(&'static str),
    /// Closes the connection without a response.
    Cut,
    /// Sends the response after a notification.
    Later(Arc<Notify>, u16, String),
    /// Sends these bytes and keeps the connection open.
    Part(&'static str),
    /// Never responds.
    Hang,
}

type Script = dyn Fn(&str, usize) -> Reply + Send + Sync;

/// A fake engine on a socket of its own.
struct Fake {
    dir: tempfile::TempDir,
    /// The received requests, as `METHOD /path`.
    seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// Starts an engine. `script` returns the reply to requests after the connect, by the request
    /// and the number of earlier requests on the same connection.
    fn new(script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::with_all(move |request, before| match request {
            "GET /version" => Reply::Json(200, recorded::text("version")),
            "GET /v1.41/info" => Reply::Json(200, recorded::text("info")),
            _ => script(request, before),
        })
    }

    /// Starts an engine with the replies to all requests.
    fn with_all(script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let script: Arc<Script> = Arc::new(script);
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
                }
            }
        });
        Self { dir, seen, task }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    async fn connect(&self) -> Result<DockerRuntime> {
        let mut deadlines = Deadlines::default();
        deadlines.connect = Duration::from_millis(500);
        deadlines.query = Duration::from_millis(500);
        deadlines.create = Duration::from_secs(5);
        connect(&format!("unix://{}", self.socket().display()), deadlines).await
    }

    fn seen(&self, request: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| seen.starts_with(request)).count()
    }

    /// Waits until a request was received this number of times.
    async fn until_seen(&self, request: &str, times: usize) {
        let seen = async {
            while self.seen(request) < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), seen).await.is_err() {
            panic!("{request} was not received: {:?}", self.seen.lock().unwrap());
        }
    }
}

async fn connect(host: &str, deadlines: Deadlines) -> Result<DockerRuntime> {
    let options = DockerOptions::new(Scope::new("test").unwrap()).host(host).deadlines(deadlines);
    DockerRuntime::connect(options).await
}

async fn serve(mut stream: UnixStream, script: Arc<Script>, seen: Arc<Mutex<Vec<String>>>) {
    let mut buffer = Vec::new();
    for before in 0.. {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let length = text
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        // All chunked bodies except archives are empty.
        let length = if text.to_lowercase().contains("transfer-encoding: chunked")
            && !text.contains("/archive")
        {
            b"0\r\n\r\n".len()
        } else {
            length
        };
        while buffer.len() < head + length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        buffer.drain(..head + length);
        let line = text.lines().next().unwrap_or_default();
        let request = line.trim_end_matches(" HTTP/1.1").to_owned();
        let path = request.split('?').next().unwrap_or_default();
        seen.lock().unwrap().push(request.clone());
        let (status, body) = match script(path, before) {
            Reply::Json(status, body) => (status, body),
            Reply::Later(notify, status, body) => {
                notify.notified().await;
                (status, body)
            }
            Reply::Raw(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                return;
            }
            Reply::Cut => return,
            Reply::Part(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                std::future::pending().await
            }
            Reply::Hang => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
            return;
        }
    }
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn created() -> String {
    format!(r#"{{"Id":"{ID}","Warnings":[]}}"#)
}

fn spec() -> ContainerSpec {
    ContainerSpec::new("busybox").pull_policy(PullPolicy::Never)
}

#[track_caller]
fn assert_failed<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, text: &str) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.backend(), Some("docker"));
    assert!(error.to_string().contains(text), "{error}");
    error
}

#[tokio::test]
async fn connect_without_engine_returns_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/none", dir.path().display());
    let error = assert_failed(
        connect(&host, Deadlines::default()).await,
        ErrorKind::Unavailable,
        "no such socket",
    );
    assert_eq!(error.operation(), Some(Operation::Connect));
    assert!(error.is_retryable());
    let left = dir.path().join("left");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let host = format!("unix://{}", left.display());
    let refused = connect(&host, Deadlines::default()).await;
    assert_failed(refused, ErrorKind::Unavailable, "connection refused");
}

#[tokio::test]
async fn connect_to_other_server_returns_unavailable() {
    let no_engine = "is not a Docker engine";
    for (reply, text) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", no_engine),
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", no_engine),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", no_engine),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", no_engine),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", no_engine),
        ("", "was lost"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n{", "was lost"),
    ] {
        let fake = Fake::with_all(move |_, _| Reply::Raw(reply));
        assert_failed(fake.connect().await, ErrorKind::Unavailable, text);
    }
    let hangs = Fake::with_all(|_, _| Reply::Hang);
    let error = hangs.connect().await;
    assert_failed(error, ErrorKind::Timeout, "deadline exceeded");
}

#[tokio::test]
async fn all_requests_have_api_version() {
    let fake = Fake::new(|request, _| match request {
        "POST /v1.41/containers/create" => Reply::Json(201, created()),
        _ => Reply::Json(204, String::new()),
    });
    let runtime = fake.connect().await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    container.start().await.unwrap();
    container.kill(runtime_core::Signal::TERM).await.unwrap();
    container.remove().await.unwrap();
    let seen = fake.seen.lock().unwrap().clone();
    let paths: Vec<_> =
        seen.iter().map(|s| s.split('?').next().unwrap().replace(ID, "ID")).collect();
    assert_eq!(
        paths,
        [
            "GET /version",
            "GET /v1.41/info",
            "POST /v1.41/containers/create",
            "POST /v1.41/containers/ID/start",
            "POST /v1.41/containers/ID/kill",
            "DELETE /v1.41/containers/ID",
        ]
    );
    assert_eq!(runtime.requests_sent(), 6);
    assert!(seen[5].contains("force=true") && seen[5].contains("v=true"), "{}", seen[5]);
}

#[tokio::test]
async fn only_reads_are_retried_after_lost_connection() {
    // The connection of the connect is closed when it is reused.
    let script = |request: &str, before: usize| match request {
        _ if before >= 2 => Reply::Cut,
        "GET /v1.41/containers/json" => Reply::Json(200, "[]".to_owned()),
        _ => Reply::Json(201, created()),
    };
    let fake = Fake::new(script);
    let runtime = fake.connect().await.unwrap();
    assert_eq!(runtime.list_containers(Default::default()).await.unwrap().len(), 0);
    assert_eq!(fake.seen("GET /v1.41/containers/json"), 2);
    assert_eq!(runtime.requests_sent(), 4);

    let fake = Fake::new(script);
    let runtime = fake.connect().await.unwrap();
    let made = runtime.create_container(&spec()).await;
    assert_failed(made, ErrorKind::Unavailable, "was lost");
    assert_eq!(fake.seen("POST /v1.41/containers/create"), 1);
}

#[tokio::test]
async fn dropped_create_is_undone_after_response() {
    let go_on = Arc::new(Notify::new());
    let later = Arc::clone(&go_on);
    let fake = Fake::new(move |request, _| match request {
        "POST /v1.41/containers/create" => Reply::Later(Arc::clone(&later), 201, created()),
        _ => Reply::Json(204, String::new()),
    });
    let runtime = fake.connect().await.unwrap();
    let creating = tokio::spawn({
        let runtime = runtime.clone();
        async move { runtime.create_container(&spec()).await }
    });
    fake.until_seen("POST /v1.41/containers/create", 1).await;
    creating.abort();
    assert!(creating.await.unwrap_err().is_cancelled());
    go_on.notify_one();
    fake.until_seen(&format!("DELETE /v1.41/containers/{ID}"), 1).await;
}

#[tokio::test]
async fn create_without_response_is_found_and_undone() {
    let nonce = Arc::<Mutex<String>>::default();
    let fake = {
        let nonce = Arc::clone(&nonce);
        Fake::new(move |request, _| match request {
            "POST /v1.41/containers/create" => Reply::Cut,
            // The engine has not created it at the first request.
            "GET /v1.41/containers/json" => match nonce.lock().unwrap().as_str() {
                "" => Reply::Json(200, "[]".to_owned()),
                nonce => Reply::Json(
                    200,
                    serde_json::json!([{"Id": ID, "Names": ["/x"], "Labels": {
                        "container-runtime/managed": "true",
                        "container-runtime/scope": "test",
                        "container-runtime/nonce": nonce
                    }}])
                    .to_string(),
                ),
            },
            _ => Reply::Json(204, String::new()),
        })
    };
    let runtime = fake.connect().await.unwrap();
    let made = runtime.create_container(&spec()).await;
    assert_failed(made, ErrorKind::Unavailable, "was lost");
    fake.until_seen("GET /v1.41/containers/json", 2).await;
    let asked = fake.seen.lock().unwrap().last().unwrap().clone();
    let (_, rest) = asked.split_once("container-runtime%2Fnonce%3D").unwrap();
    rest[..32].clone_into(&mut nonce.lock().unwrap());
    fake.until_seen(&format!("DELETE /v1.41/containers/{ID}"), 1).await;
}

#[tokio::test]
async fn close_ends_requests_in_flight() {
    let fake = Fake::new(|_, _| Reply::Hang);
    let runtime = fake.connect().await.unwrap();
    let listing = tokio::spawn({
        let runtime = runtime.clone();
        async move { runtime.list_containers(Default::default()).await }
    });
    fake.until_seen("GET /v1.41/containers/json", 1).await;
    runtime.close().await.unwrap();
    runtime.close().await.unwrap();
    let text = "the runtime was closed";
    assert_failed(listing.await.unwrap(), ErrorKind::InvalidState, text);
    assert_failed(runtime.health().await, ErrorKind::InvalidState, text);
    assert_failed(runtime.create_container(&spec()).await, ErrorKind::InvalidState, text);
    let id = ContainerId::new(ID);
    assert_failed(runtime.container(&id).await, ErrorKind::InvalidState, text);
}

#[tokio::test]
async fn hanging_engine_returns_timeout() {
    let fake = Fake::new(|request, _| match request {
        "POST /v1.41/containers/create" => Reply::Json(201, created()),
        _ => Reply::Hang,
    });
    let runtime = fake.connect().await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    let error = assert_failed(container.info().await, ErrorKind::Timeout, "500ms");
    assert_eq!((error.operation(), error.subject()), (Some(Operation::Info), Some(ID)));
    assert!(error.is_retryable());
    assert_failed(runtime.list_containers(Default::default()).await, ErrorKind::Timeout, "list");
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_its_grace() {
    let go_on = Arc::new(Notify::new());
    let later = Arc::clone(&go_on);
    let fake = Fake::new(move |request, _| {
        if request.ends_with("/create") {
            Reply::Json(201, created())
        } else if request.ends_with("/stop") {
            Reply::Later(Arc::clone(&later), 204, String::new())
        } else if request.ends_with("/json") {
            Reply::Json(200, recorded::text("exited"))
        } else {
            Reply::Json(204, String::new())
        }
    });
    let runtime = fake.connect().await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    container.start().await.unwrap();
    let grace = Duration::from_secs(3600);
    let stopping = tokio::spawn({
        let container = Arc::clone(&container);
        async move { container.stop(StopOptions::default().grace(grace)).await }
    });
    tokio::time::sleep(Duration::from_secs(3500)).await;
    assert!(!stopping.is_finished());
    go_on.notify_one();
    let stopped = stopping.await.unwrap().unwrap();
    assert!(matches!(stopped, runtime_core::StopOutcome::Stopped(_)), "{stopped:?}");
    assert_eq!(fake.seen(&format!("POST /v1.41/containers/{ID}/stop?t=3600")), 1);

    // The grace is also the limit.
    let error = container.stop(StopOptions::default().grace(Duration::from_secs(5))).await;
    assert_failed(error, ErrorKind::Timeout, "35s");
}

#[tokio::test]
async fn missing_oom_event_is_reported_once_before_exit() {
    let event = |action: &str, nanos: u32| {
        let attributes = serde_json::json!({
            "name": "x",
            "exitCode": "137",
            "container-runtime/managed": "true",
            "container-runtime/scope": "test"
        });
        let actor = serde_json::json!({ "ID": ID, "Attributes": attributes });
        let time = 4_102_444_800_000_000_000_u64 + u64::from(nanos);
        let message = serde_json::json!({ "Action": action, "Actor": actor, "timeNano": time });
        format!("{message}\n")
    };
    // The stream ends, and the reopened one begins with the same events.
    let actions = ["create", "start", "die", "oom", "destroy"];
    let events: String =
        actions.iter().zip(1..).map(|(action, nanos)| event(action, nanos)).collect();
    let fake = Fake::new(move |request, _| match request {
        "GET /v1.41/events" => Reply::Json(200, events.clone()),
        "GET /v1.41/containers/json" => Reply::Json(200, "[]".to_owned()),
        _ => Reply::Json(200, recorded::text("oom")),
    });
    let runtime = fake.connect().await.unwrap();
    let reported = runtime.events(EventsOptions::default()).await.unwrap().take(5);
    let reported = reported.map(|event| event.unwrap().kind).collect::<Vec<_>>();
    let reported = tokio::time::timeout(Duration::from_secs(10), reported).await.unwrap();
    let exit = match &reported[3] {
        EventKind::Exited(exit) => exit.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(exit.reason, ExitReason::OutOfMemory);
    assert_eq!(
        reported,
        [
            EventKind::Created,
            EventKind::Started,
            EventKind::Oom,
            EventKind::Exited(exit),
            EventKind::Removed
        ]
    );
}

#[tokio::test]
async fn failed_start_is_not_retryable() {
    let body = r#"{"message":"Bind for 0.0.0.0:80 failed: port is already allocated"}"#;
    let fake = Fake::new(|request, _| match request {
        "POST /v1.41/containers/create" => Reply::Json(201, created()),
        _ => Reply::Json(500, body.to_owned()),
    });
    let runtime = fake.connect().await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    let error =
        assert_failed(container.start().await, ErrorKind::ResourceExhausted, "already allocated");
    // The container counts as exited, so it is not started again.
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn failed_removal_by_another_client_returns_error() {
    for (body, failed) in [
        (r#"{"StatusCode":0,"Error":{"Message":"device or resource busy"}}"#, true),
        (r#"{"StatusCode":0,"Error":null}"#, false),
        (r#"{"StatusCode":0,"Error":{"Message":""}}"#, false),
        (r#"{"StatusCode":0}"#, false),
    ] {
        let fake = Fake::new(move |request, _| match request {
            "POST /v1.41/containers/create" => Reply::Json(201, created()),
            _ if request.starts_with("DELETE") => {
                let message = format!("removal of container {ID} is already in progress");
                Reply::Json(409, format!(r#"{{"message":"{message}"}}"#))
            }
            _ => Reply::Json(200, body.to_owned()),
        });
        let runtime = fake.connect().await.unwrap();
        let container = runtime.create_container(&spec()).await.unwrap();
        let removed = container.remove().await;
        if failed {
            assert_failed(removed, ErrorKind::Internal, "device or resource busy");
        } else {
            removed.unwrap();
        }
    }
}

#[tokio::test]
async fn idle_engine_within_log_returns_timeout() {
    // A frame of stdout with one line.
    const LOG: &str = "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n\
        \u{1}\0\0\0\0\0\0\u{23}2026-11-23T16:39:14.969965638Z one\n";
    const RAW: &str = "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n\u{1}\0\0\0\0\0\0\u{4}one\n";
    for raw in [false, true] {
        let fake = Fake::new(move |request, _| match request {
            "POST /v1.41/containers/create" => Reply::Json(201, created()),
            _ => Reply::Part(if raw { RAW } else { LOG }),
        });
        let mut deadlines = Deadlines::default();
        deadlines.pull_inactivity = Duration::from_millis(200);
        let host = format!("unix://{}", fake.socket().display());
        let runtime = connect(&host, deadlines).await.unwrap();
        let container = runtime.create_container(&spec()).await.unwrap();
        let (first, then) = if raw {
            let mut log = container.raw_logs().await.unwrap();
            let first = log.next().await.unwrap().unwrap().bytes;
            (first, log.next().await.unwrap().map(drop))
        } else {
            let mut log = container.logs(Default::default()).await.unwrap();
            let first = log.next().await.unwrap().unwrap().bytes;
            // The time of the caller does not count.
            tokio::time::sleep(Duration::from_millis(400)).await;
            (first, log.next().await.unwrap().map(drop))
        };
        assert_eq!(first, "one\n");
        let error = assert_failed(then, ErrorKind::Timeout, "sent nothing for 200ms");
        assert_eq!((error.operation(), error.subject()), (Some(Operation::Logs), Some(ID)));
    }
}

#[tokio::test]
async fn stats_without_cgroups_return_unsupported() {
    let info = {
        let mut info: serde_json::Value = serde_json::from_str(&recorded::text("info")).unwrap();
        info["CgroupDriver"] = "none".into();
        info.to_string()
    };
    let fake = Fake::with_all(move |request, _| match request {
        "GET /version" => Reply::Json(200, recorded::text("version")),
        "GET /v1.41/info" => Reply::Json(200, info.clone()),
        _ => Reply::Json(201, created()),
    });
    let runtime = fake.connect().await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    let text = "not supported";
    assert_failed(container.stats_once().await, ErrorKind::Unsupported, text);
    let stream = container.stats(Default::default()).await.map(drop);
    assert_failed(stream, ErrorKind::Unsupported, text);
    let many = assert_failed(runtime.stats(&[]).await, ErrorKind::Unsupported, text);
    assert_eq!(many.capability(), Some(runtime_core::Capability::BulkStats));
    assert_eq!(fake.seen("GET /v1.41/containers"), 0);
}

#[tokio::test]
async fn log_with_deleted_start_returns_lost() {
    // The first line is later than the cursor.
    const LOG: &str = "HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n\
        \u{1}\0\0\0\0\0\0\u{23}2026-11-23T16:39:14.969965638Z two\n";
    let fake = Fake::new(|request, _| match request {
        "POST /v1.41/containers/create" => Reply::Json(201, created()),
        _ => Reply::Raw(LOG),
    });
    let runtime = fake.connect().await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_795_451_900);
    let after = runtime_core::LogCursor::new(time, 1);
    let mut log = container.logs(LogOptions::default().after(after)).await.unwrap();
    let error = log.next().await.unwrap().map(drop);
    let error = assert_failed(error, ErrorKind::Lost, "1795451900.000000000");
    assert_eq!((error.operation(), error.subject()), (Some(Operation::Logs), Some(ID)));
    assert!(log.next().await.is_none());
}

#[tokio::test]
async fn inspect_during_exit_is_retried_once() {
    const GONE: &str = r#"{"cause":"no such process",
        "message":"read /proc/15279/cgroup: no such process","response":500}"#;
    let path = format!("GET /v1.41/containers/{ID}/json");
    // Podman fails once. Another failure, or a second one, is returned.
    for (failures, body, requests, succeeds) in
        [(1, GONE, 2, true), (9, GONE, 2, false), (1, r#"{"message":"no"}"#, 1, false)]
    {
        let left = Mutex::new(failures);
        let fake = Fake::new(move |request, _| match request {
            "POST /v1.41/containers/create" => Reply::Json(201, created()),
            _ => {
                let mut left = left.lock().unwrap();
                if *left > 0 {
                    *left -= 1;
                    return Reply::Json(500, body.to_owned());
                }
                Reply::Json(200, recorded::text("exited"))
            }
        });
        let runtime = fake.connect().await.unwrap();
        let container = runtime.create_container(&spec()).await.unwrap();
        let info = container.info().await;
        if succeeds {
            assert_eq!(info.unwrap().status, runtime_core::ContainerStatus::Exited);
        } else {
            assert_failed(info, ErrorKind::Internal, "no");
        }
        assert_eq!(fake.seen(&path), requests);
    }
}
