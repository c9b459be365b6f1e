//! An engine that is played by hand, for what real ones do not do at will: to hang, to cut a
//! connection, to talk nonsense.

mod drops;
mod secrets;

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

/// What the fake does with a request.
enum Reply {
    /// Answers with a status and a JSON body.
    Json(u16, String),
    /// Sends these bytes and nothing else.
    Raw(&'static str),
    /// Closes the connection without an answer.
    Cut,
    /// Answers 204 when it is told to go on.
    Later(Arc<Notify>, u16, String),
    /// Sends these bytes and then nothing.
    Part(&'static str),
    /// Never answers.
    Hang,
}

type Script = dyn Fn(&str, usize) -> Reply + Send + Sync;

/// A fake engine on a socket of its own.
struct Fake {
    folder: tempfile::TempDir,
    /// The requests that came, as `METHOD /path`.
    seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// `script` answers what is not asked at the connect; it is given the request and how many
    /// came before it on the same connection.
    fn new(script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::whole(move |request, before| match request {
            "GET /version" => Reply::Json(200, recorded::text("version")),
            "GET /v1.41/info" => Reply::Json(200, recorded::text("info")),
            _ => script(request, before),
        })
    }

    fn whole(script: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
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
        Self { folder, seen, task }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
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

    /// Waits until a request has come so often.
    async fn until_seen(&self, request: &str, times: usize) {
        let seen = async {
            while self.seen(request) < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), seen).await.is_err() {
            panic!("{request} did not come: {:?}", self.seen.lock().unwrap());
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
        // The only body in pieces that is not an archive is an empty one.
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
fn assert_failed<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, words: &str) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.backend(), Some("docker"));
    assert!(error.to_string().contains(words), "{error}");
    error
}

#[tokio::test]
async fn no_engine_at_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let host = format!("unix://{}/none", folder.path().display());
    let error = assert_failed(
        connect(&host, Deadlines::default()).await,
        ErrorKind::Unavailable,
        "there is no socket: unix://",
    );
    assert_eq!(error.operation(), Some(Operation::Connect));
    assert!(error.is_retryable());
    let left = folder.path().join("left");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let host = format!("unix://{}", left.display());
    let refused = connect(&host, Deadlines::default()).await;
    assert_failed(refused, ErrorKind::Unavailable, "nobody listens");
}

#[tokio::test]
async fn a_socket_that_is_no_engine() {
    let no_engine = "is no Docker engine";
    for (reply, words) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", no_engine),
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", no_engine),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", no_engine),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", no_engine),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", no_engine),
        ("", "was lost"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n{", "was lost"),
    ] {
        let fake = Fake::whole(move |_, _| Reply::Raw(reply));
        assert_failed(fake.connect().await, ErrorKind::Unavailable, words);
    }
    let hangs = Fake::whole(|_, _| Reply::Hang);
    let error = hangs.connect().await;
    assert_failed(error, ErrorKind::Timeout, "deadline exceeded");
}

#[tokio::test]
async fn all_requests_carry_the_version() {
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
async fn a_question_on_a_dead_connection_is_repeated_and_a_command_is_not() {
    // The connection of the connect is cut when it is used again.
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
async fn a_dropped_create_is_undone_when_its_answer_comes() {
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
async fn a_create_without_an_answer_is_looked_for_and_undone() {
    let nonce = Arc::<Mutex<String>>::default();
    let fake = {
        let nonce = Arc::clone(&nonce);
        Fake::new(move |request, _| match request {
            "POST /v1.41/containers/create" => Reply::Cut,
            // First it is not there yet: the engine was still at it.
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
async fn a_closed_runtime_ends_what_is_under_way() {
    let fake = Fake::new(|_, _| Reply::Hang);
    let runtime = fake.connect().await.unwrap();
    let listing = tokio::spawn({
        let runtime = runtime.clone();
        async move { runtime.list_containers(Default::default()).await }
    });
    fake.until_seen("GET /v1.41/containers/json", 1).await;
    runtime.close().await.unwrap();
    runtime.close().await.unwrap();
    let words = "the runtime was closed";
    assert_failed(listing.await.unwrap(), ErrorKind::InvalidState, words);
    assert_failed(runtime.health().await, ErrorKind::InvalidState, words);
    assert_failed(runtime.create_container(&spec()).await, ErrorKind::InvalidState, words);
    let id = ContainerId::new(ID);
    assert_failed(runtime.container(&id).await, ErrorKind::InvalidState, words);
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_a_timeout_of_the_operation() {
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
async fn a_stop_waits_longer_than_any_fixed_deadline() {
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

    // And it does not wait for ever.
    let error = container.stop(StopOptions::default().grace(Duration::from_secs(5))).await;
    assert_failed(error, ErrorKind::Timeout, "35s");
}

#[tokio::test]
async fn an_out_of_memory_without_an_event_is_told_before_the_end_and_once() {
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
    // What ends is opened again, and told again from the beginning.
    let actions = ["create", "start", "die", "oom", "destroy"];
    let events: String =
        actions.iter().zip(1..).map(|(action, nanos)| event(action, nanos)).collect();
    let fake = Fake::new(move |request, _| match request {
        "GET /v1.41/events" => Reply::Json(200, events.clone()),
        "GET /v1.41/containers/json" => Reply::Json(200, "[]".to_owned()),
        _ => Reply::Json(200, recorded::text("oom")),
    });
    let runtime = fake.connect().await.unwrap();
    let told = runtime.events(EventsOptions::default()).await.unwrap().take(5);
    let told = told.map(|event| event.unwrap().kind).collect::<Vec<_>>();
    let told = tokio::time::timeout(Duration::from_secs(10), told).await.unwrap();
    let exit = match &told[3] {
        EventKind::Exited(exit) => exit.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(exit.reason, ExitReason::OutOfMemory);
    assert_eq!(
        told,
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
async fn a_start_that_failed_is_not_to_be_tried_again() {
    let said = r#"{"message":"Bind for 0.0.0.0:80 failed: port is already allocated"}"#;
    let fake = Fake::new(|request, _| match request {
        "POST /v1.41/containers/create" => Reply::Json(201, created()),
        _ => Reply::Json(500, said.to_owned()),
    });
    let runtime = fake.connect().await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    let error =
        assert_failed(container.start().await, ErrorKind::ResourceExhausted, "already allocated");
    // It counts as ended, so that the next start is none.
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_removal_by_another_that_fails_is_one_that_fails() {
    for (said, failed) in [
        (r#"{"StatusCode":0,"Error":{"Message":"device or resource busy"}}"#, true),
        (r#"{"StatusCode":0,"Error":null}"#, false),
        (r#"{"StatusCode":0,"Error":{"Message":""}}"#, false),
        (r#"{"StatusCode":0}"#, false),
    ] {
        let fake = Fake::new(move |request, _| match request {
            "POST /v1.41/containers/create" => Reply::Json(201, created()),
            _ if request.starts_with("DELETE") => {
                let said = format!("removal of container {ID} is already in progress");
                Reply::Json(409, format!(r#"{{"message":"{said}"}}"#))
            }
            _ => Reply::Json(200, said.to_owned()),
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
async fn an_engine_that_falls_silent_within_a_log_is_a_timeout() {
    // A frame of standard output with one line.
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
            // The time that is taken here is not the engine's.
            tokio::time::sleep(Duration::from_millis(400)).await;
            (first, log.next().await.unwrap().map(drop))
        };
        assert_eq!(first, "one\n");
        let error = assert_failed(then, ErrorKind::Timeout, "said nothing for 200ms");
        assert_eq!((error.operation(), error.subject()), (Some(Operation::Logs), Some(ID)));
    }
}

#[tokio::test]
async fn an_engine_without_cgroups_measures_nothing() {
    let info = {
        let mut info: serde_json::Value = serde_json::from_str(&recorded::text("info")).unwrap();
        info["CgroupDriver"] = "none".into();
        info.to_string()
    };
    let fake = Fake::whole(move |request, _| match request {
        "GET /version" => Reply::Json(200, recorded::text("version")),
        "GET /v1.41/info" => Reply::Json(200, info.clone()),
        _ => Reply::Json(201, created()),
    });
    let runtime = fake.connect().await.unwrap();
    let container = runtime.create_container(&spec()).await.unwrap();
    let words = "not supported";
    assert_failed(container.stats_once().await, ErrorKind::Unsupported, words);
    let stream = container.stats(Default::default()).await.map(drop);
    assert_failed(stream, ErrorKind::Unsupported, words);
    let many = assert_failed(runtime.stats(&[]).await, ErrorKind::Unsupported, words);
    assert_eq!(many.capability(), Some(runtime_core::Capability::BulkStats));
    assert_eq!(fake.seen("GET /v1.41/containers"), 0);
}

#[tokio::test]
async fn a_log_of_which_a_part_was_thrown_away_is_lost() {
    // What is there was written after the place.
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
async fn a_question_that_meets_the_end_is_asked_again() {
    const GONE: &str = r#"{"cause":"no such process",
        "message":"read /proc/15279/cgroup: no such process","response":500}"#;
    let path = format!("GET /v1.41/containers/{ID}/json");
    // Once is what Podman does; another failure, or the same again, is told.
    for (failures, words, asked, ends) in
        [(1, GONE, 2, true), (9, GONE, 2, false), (1, r#"{"message":"no"}"#, 1, false)]
    {
        let left = Mutex::new(failures);
        let fake = Fake::new(move |request, _| match request {
            "POST /v1.41/containers/create" => Reply::Json(201, created()),
            _ => {
                let mut left = left.lock().unwrap();
                if *left > 0 {
                    *left -= 1;
                    return Reply::Json(500, words.to_owned());
                }
                Reply::Json(200, recorded::text("exited"))
            }
        });
        let runtime = fake.connect().await.unwrap();
        let container = runtime.create_container(&spec()).await.unwrap();
        let info = container.info().await;
        if ends {
            assert_eq!(info.unwrap().status, runtime_core::ContainerStatus::Exited);
        } else {
            assert_failed(info, ErrorKind::Internal, "no");
        }
        assert_eq!(fake.seen(&path), asked);
    }
}
