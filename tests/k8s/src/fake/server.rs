//! Request handling of the fake server.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::Shared;
use super::hooks::{Reaction, Received, Refusal};
use super::store::{has_fields, is_selected};

type Answer = UnsyncBoxBody<Bytes, Infallible>;

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let _ = tcp.set_nodelay(true);
        let Some(connection) = shared.switch.take(tcp) else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            // The client sees the end of the connection as well.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(connection), service)
                .await;
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let query = head.uri.query().unwrap_or_default();
    let mut received = Received {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    shared.received.lock().unwrap().push(received.clone());
    shared.count.send_modify(|count| *count += 1);
    let reaction = {
        let mut hooks = shared.hooks.lock().unwrap();
        let reactions = hooks.iter_mut().rev().map(|(_, hook)| hook(&received));
        let mut decided = reactions.skip_while(|reaction| matches!(reaction, Reaction::Pass));
        decided.next().unwrap_or(Reaction::Pass)
    };
    let cut = || Err(std::io::Error::other("cut"));
    match reaction {
        Reaction::Pass => Ok(handle(&shared, &received)),
        Reaction::PassWith(headers) => {
            let mut answer = handle(&shared, &received);
            for (name, value) in headers {
                answer.headers_mut().append(name, value.parse().unwrap());
            }
            Ok(answer)
        }
        Reaction::Rewrite(body) => {
            received.body = body;
            Ok(handle(&shared, &received))
        }
        Reaction::Refuse(refusal) => Ok(refused(&refusal)),
        Reaction::Answer { code, headers, body } => {
            let mut answer = Response::builder().status(code);
            for (name, value) in headers {
                answer = answer.header(name, value);
            }
            Ok(answer.body(whole(body)).unwrap())
        }
        Reaction::Lose => {
            handle(&shared, &received);
            cut()
        }
        Reaction::Stall => std::future::pending().await,
        Reaction::Cut => cut(),
    }
}

fn whole(body: impl Into<Bytes>) -> Answer {
    Full::new(body.into()).boxed_unsync()
}

fn json_answer(code: StatusCode, value: &Value) -> Response<Answer> {
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(whole(value.to_string()))
        .unwrap()
}

fn refused(refusal: &Refusal) -> Response<Answer> {
    json_answer(StatusCode::from_u16(refusal.code).unwrap(), &refusal.status)
}

fn no_such_path() -> Response<Answer> {
    let answer = Response::builder().status(StatusCode::NOT_FOUND);
    answer.body(whole("404 page not found\n")).unwrap()
}

/// Parsed target of a request.
struct Target<'a> {
    api: String,
    namespace: &'a str,
    plural: &'a str,
    name: &'a str,
    sub: &'a str,
}

fn target(path: &str) -> Option<Target<'_>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (api, rest) = match parts.as_slice() {
        ["api", "v1", rest @ ..] => ("v1".to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        rest => ("", rest),
    };
    let at = |at: usize| rest.get(at).copied().unwrap_or_default();
    (!rest.is_empty()).then(|| Target { api, namespace, plural: at(0), name: at(1), sub: at(2) })
}

fn handle(shared: &Arc<Shared>, request: &Received) -> Response<Answer> {
    match request.path.as_str() {
        "/version" => return json_answer(StatusCode::OK, &shared.version),
        "/livez" | "/readyz" | "/healthz" => {
            return Response::new(whole("ok"));
        }
        "/api" => {
            return json_answer(
                StatusCode::OK,
                &json!({"kind": "APIVersions", "versions": ["v1"]}),
            );
        }
        "/apis" => {
            return json_answer(StatusCode::OK, &json!({"kind": "APIGroupList", "groups": []}));
        }
        "/api/v1" => {
            return json_answer(
                StatusCode::OK,
                &json!({"kind": "APIResourceList", "resources": []}),
            );
        }
        _ => {}
    }
    let Some(target) = target(&request.path) else { return no_such_path() };
    if target.api.starts_with("metrics.k8s.io/") && !shared.has_metrics {
        return no_such_path();
    }
    if target.sub == "log" {
        return log(shared, request, &target);
    }
    if !target.sub.is_empty() {
        return no_such_path();
    }
    let Target { plural, namespace, name, .. } = target;
    let mut store = shared.store.lock().unwrap();
    let done = match (&request.method, name.is_empty()) {
        (&Method::GET, true) if request.is_watch() => {
            drop(store);
            return watch(shared, request, plural, namespace);
        }
        (&Method::GET, true) => {
            let query =
                |name: &str| request.query.get(name).map(String::as_str).unwrap_or_default();
            let (labels, fields) = (query("labelSelector"), query("fieldSelector"));
            let items: Vec<Value> = store
                .objects
                .iter()
                .filter(|((a, b, _), _)| a == plural && (namespace.is_empty() || b == namespace))
                .map(|(_, object)| object.clone())
                .filter(|object| is_selected(object, labels) && has_fields(object, fields))
                .map(|object| rewritten(shared, object))
                .collect();
            Ok(json!({
                "kind": "List", "apiVersion": target.api, "items": items,
                "metadata": {"resourceVersion": store.version.to_string()},
            }))
        }
        (&Method::GET, false) => match store.get(plural, namespace, name) {
            Some(object) => Ok(object.clone()),
            None => Err(Refusal::new(404, "NotFound", format!("{plural} \"{name}\" not found"))),
        },
        (&Method::POST, true) => {
            let dry = request.query.contains_key("dryRun");
            let created = store.create(plural, namespace, request.body.clone(), dry);
            return match created {
                Ok(object) => json_answer(StatusCode::CREATED, &rewritten(shared, object)),
                Err(refusal) => refused(&refusal),
            };
        }
        (&Method::PATCH, false) => store.patch(plural, namespace, name, &request.body),
        (&Method::DELETE, false) => store.delete(plural, namespace, name, &request.body),
        _ => Err(Refusal::new(405, "MethodNotAllowed", "the server does not allow this method")),
    };
    drop(store);
    match done {
        Ok(object) => json_answer(StatusCode::OK, &rewritten(shared, object)),
        Err(refusal) => refused(&refusal),
    }
}

/// Returns an object as clients see it.
fn rewritten(shared: &Shared, mut object: Value) -> Value {
    for rewrite in shared.rewrites.lock().unwrap().iter() {
        rewrite(&mut object);
    }
    object
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

fn expired() -> Bytes {
    let refusal = Refusal::new(410, "Expired", "too old resource version");
    line("ERROR", &refusal.status)
}

/// Streams the changes of a kind of objects.
fn watch(
    shared: &Arc<Shared>,
    request: &Received,
    plural: &str,
    namespace: &str,
) -> Response<Answer> {
    let query = |name: &str| request.query.get(name).cloned().unwrap_or_default();
    let selector = query("labelSelector");
    let takes_bookmarks = query("allowWatchBookmarks") == "true";
    let seconds = query("timeoutSeconds").parse().unwrap_or(3600);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let (plural, namespace) = (plural.to_owned(), namespace.to_owned());
    let mut lines = VecDeque::new();
    let store = shared.store.lock().unwrap();
    let (changed, bookmarks) = (store.changed.subscribe(), store.bookmarks.subscribe());
    let mut at: u64 = query("resourceVersion").parse().unwrap_or(0);
    let mut over = false;
    if at == 0 {
        at = store.version;
        for ((a, b, _), object) in &store.objects {
            if *a == plural && *b == namespace && is_selected(object, &selector) {
                lines.push_back(line("ADDED", &rewritten(shared, object.clone())));
            }
        }
    } else if at < store.forgotten {
        lines.push_back(expired());
        over = true;
    }
    drop(store);
    let state = (Arc::clone(shared), lines, at, over, changed, bookmarks);
    let lines = stream::unfold(state, move |state| {
        let (plural, namespace, selector) = (plural.clone(), namespace.clone(), selector.clone());
        async move {
            let (shared, mut lines, mut at, mut over, mut changed, mut bookmarks) = state;
            loop {
                if let Some(line) = lines.pop_front() {
                    let frame = Ok::<_, Infallible>(Frame::data(line));
                    return Some((frame, (shared, lines, at, over, changed, bookmarks)));
                }
                if over {
                    return None;
                }
                {
                    changed.borrow_and_update();
                    let store = shared.store.lock().unwrap();
                    if at < store.forgotten {
                        lines.push_back(expired());
                        over = true;
                        continue;
                    }
                    let start = store.changes.partition_point(|change| change.version <= at);
                    for change in &store.changes[start..] {
                        if change.plural == plural
                            && change.namespace == namespace
                            && is_selected(&change.object, &selector)
                        {
                            let object = rewritten(&shared, change.object.clone());
                            lines.push_back(line(change.kind, &object));
                        }
                    }
                    at = store.version;
                }
                if !lines.is_empty() {
                    continue;
                }
                tokio::select! {
                    changed = changed.changed() => changed.ok()?,
                    () = tokio::time::sleep_until(deadline) => over = true,
                    marked = bookmarks.changed() => {
                        marked.ok()?;
                        if takes_bookmarks && at >= shared.store.lock().unwrap().forgotten {
                            let object = json!({
                                "kind": "Pod", "apiVersion": "v1",
                                "metadata": {"resourceVersion": at.to_string(), "creationTimestamp": null},
                                "spec": {"containers": null}, "status": {},
                            });
                            lines.push_back(line("BOOKMARK", &object));
                        }
                    }
                }
            }
        }
    });
    Response::builder()
        .header("content-type", "application/json")
        .body(StreamBody::new(lines).boxed_unsync())
        .unwrap()
}

/// Streams the log of a pod. A follower ends when the pod has exited or is removed.
fn log(shared: &Arc<Shared>, request: &Received, target: &Target<'_>) -> Response<Answer> {
    let query = |name: &str| request.query.get(name).cloned().unwrap_or_default();
    let (follows, timed) = (query("follow") == "true", query("timestamps") == "true");
    let since = query("sinceTime");
    let (namespace, name) = (target.namespace.to_owned(), target.name.to_owned());
    let store = shared.store.lock().unwrap();
    let Some(pod) = store.get("pods", &namespace, &name) else {
        return refused(&Refusal::new(404, "NotFound", format!("pods \"{name}\" not found")));
    };
    let status = &pod["status"]["containerStatuses"][0]["state"];
    if status["running"].is_null() && status["terminated"].is_null() {
        let message =
            format!("container \"main\" in pod \"{name}\" is waiting to start: ContainerCreating");
        return refused(&Refusal::new(400, "BadRequest", message));
    }
    let changed = store.changed.subscribe();
    let lines = store.logs.get(&name).map_or(0, Vec::len);
    let mut at = 0;
    if let Ok(tail) = query("tailLines").parse::<usize>() {
        at = lines.saturating_sub(tail);
    }
    drop(store);
    let state = (Arc::clone(shared), at, changed);
    let pieces = stream::unfold(state, move |(shared, mut at, mut changed)| {
        let (namespace, name, since) = (namespace.clone(), name.clone(), since.clone());
        async move {
            loop {
                let (text, over) = {
                    changed.borrow_and_update();
                    let store = shared.store.lock().unwrap();
                    let lines = store.logs.get(&name).map(Vec::as_slice).unwrap_or_default();
                    let mut text = Vec::new();
                    for (time, line) in lines.iter().skip(at) {
                        // Both are in UTC, and times of the log have nine digits.
                        if time.as_str() < since.trim_end_matches('Z') {
                            continue;
                        }
                        if timed {
                            text.extend_from_slice(time.as_bytes());
                            text.push(b' ');
                        }
                        text.extend_from_slice(line);
                    }
                    at = lines.len().max(at);
                    let ended = store.get("pods", &namespace, &name).is_none_or(|pod| {
                        !pod["status"]["containerStatuses"][0]["state"]["terminated"].is_null()
                    });
                    (text, ended || !follows)
                };
                if !text.is_empty() {
                    let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(text)));
                    return Some((frame, (shared, at, changed)));
                }
                if over {
                    return None;
                }
                changed.changed().await.ok()?;
            }
        }
    });
    let answer = Response::builder().header("content-type", "text/plain");
    answer.body(StreamBody::new(pieces).boxed_unsync()).unwrap()
}
