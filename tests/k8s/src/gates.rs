//! Scheduling gates with real pods, on a server that does not support them.
//!
//! A proxy in front of the API server implements the gates of a 1.27 server. It removes the gates from a new
//! pod and sets a scheduler that does not exist; it adds the gates to each response and each watch event; and
//! when a patch removes the last gate, it binds the pod to the node. All other requests pass through, except
//! sessions.

use std::net::SocketAddr;
use std::path::Path;

use bytes::{Buf as _, BytesMut};
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use runtime_conformance::BoxError;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::fake::apply_patch;

/// Scheduler of pods that have gates.
const NO_SCHEDULER: &str = "gates.test";

/// Annotation that holds the gates, as JSON. It remains with an empty list when all gates are removed.
const GATES: &str = "gates.test/gates";
const GATES_PATH: &str = "/metadata/annotations/gates.test~1gates";

/// Minor version that the proxy reports.
const MINOR: &str = "27";

type Answer = UnsyncBoxBody<Bytes, BoxError>;

/// Clients of the server: with the caller's rights, and with the right to bind pods.
#[derive(Clone)]
struct Server {
    caller: kube::Client,
    admin: kube::Client,
    node: String,
}

/// Serves on loopback until the runtime ends.
///
/// # Errors
/// If a kubeconfig is invalid.
pub(crate) async fn serve(
    kubeconfig: &Path,
    admin: &Path,
    node: &str,
) -> Result<SocketAddr, BoxError> {
    let server = Server {
        caller: client(kubeconfig).await?,
        admin: client(admin).await?,
        node: node.into(),
    };
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let server = server.clone();
            let service = service_fn(move |request| {
                let server = server.clone();
                async move {
                    let answered = server.answer(request).await;
                    answered.map_err(|error| std::io::Error::other(error.to_string()))
                }
            });
            tokio::spawn(async move {
                // The client sees the end of the connection as well.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), service)
                    .await;
            });
        }
    });
    Ok(address)
}

async fn client(kubeconfig: &Path) -> Result<kube::Client, BoxError> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.read_timeout = None;
    config.default_retry = false;
    Ok(kube::Client::try_from(config)?)
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Answer>, BoxError> {
        let (mut head, body) = request.into_parts();
        // A compressed body cannot be rewritten.
        head.headers.remove(http::header::ACCEPT_ENCODING);
        let mut body = body.collect().await?.to_bytes();
        let path = head.uri.path().to_owned();
        let is_pods = path.ends_with("/pods");
        let is_pod = path.rsplit('/').nth(1) == Some("pods");
        if head.method == Method::POST && is_pods {
            body = created(&body)?;
            head.headers.remove(http::header::CONTENT_LENGTH);
        }
        let mut ungated = false;
        if head.method == Method::PATCH && is_pod {
            match self.patched(&path, &body).await? {
                Ok((patch, last)) => (body, ungated) = (patch, last),
                Err(answer) => return Ok(answer),
            }
            head.headers.remove(http::header::CONTENT_LENGTH);
        }
        let is_watch = head.uri.query().is_some_and(|query| query.contains("watch=true"));
        let request = Request::from_parts(head, Body::from(body.to_vec()));
        let answer = self.caller.send(request).await?;
        if ungated && answer.status().is_success() {
            self.bind(&path).await?;
        }
        if is_watch && answer.status().is_success() {
            return Ok(answer.map(rewritten_lines));
        }
        if !(is_pods || is_pod || path == "/version") {
            return Ok(answer.map(|body| body.map_err(BoxError::from).boxed_unsync()));
        }
        let (mut head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut value: Value = serde_json::from_slice(&body)?;
        if path == "/version" {
            value["minor"] = json!(MINOR);
            value["gitVersion"] = json!(format!("v1.{MINOR}.0"));
        }
        for item in value["items"].as_array_mut().into_iter().flatten() {
            put_back(item);
        }
        put_back(&mut value);
        head.headers.remove(http::header::CONTENT_LENGTH);
        Ok(Response::from_parts(head, whole(value.to_string())))
    }

    async fn get(&self, path: &str) -> Result<Option<Value>, BoxError> {
        let answer = self.caller.send(Request::get(path).body(Body::empty())?).await?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?))
    }

    /// Converts a patch of the gates to a patch of the annotation. Returns the patch, and `true` if no gate
    /// is left.
    async fn patched(
        &self,
        path: &str,
        patch: &[u8],
    ) -> Result<Result<(Bytes, bool), Response<Answer>>, BoxError> {
        let unchanged = Ok(Ok((Bytes::copy_from_slice(patch), false)));
        let operations: Value = serde_json::from_slice(patch)?;
        let of_gates = |operation: &Value| {
            operation["path"].as_str().is_some_and(|path| path.starts_with("/spec/schedulingGates"))
        };
        let all = operations.as_array().cloned().unwrap_or_default();
        if !all.iter().any(of_gates) {
            return unchanged;
        }
        let Some(pod) = self.get(path).await? else { return unchanged };
        let before = pod["metadata"]["annotations"][GATES].clone();
        let mut seen = pod;
        put_back(&mut seen);
        let after = match apply_patch(&seen, &operations) {
            Ok(after) => after["spec"]["schedulingGates"].clone(),
            Err(message) => return Ok(Err(refused(&message))),
        };
        let is_last = after.as_array().is_none_or(Vec::is_empty);
        let after = if is_last { json!([]) } else { after };
        let mut patch = vec![
            json!({"op": "test", "path": GATES_PATH, "value": before}),
            json!({"op": "replace", "path": GATES_PATH, "value": after.to_string()}),
        ];
        // A patch of a gated pod may pin it to a node, which an old server refuses. The pin is dropped,
        // because there is only one node.
        let is_pin = |operation: &Value| {
            operation["path"].as_str().is_some_and(|path| path.starts_with("/spec/affinity"))
        };
        patch
            .extend(all.into_iter().filter(|operation| !of_gates(operation) && !is_pin(operation)));
        Ok(Ok((serde_json::to_vec(&patch)?.into(), is_last)))
    }

    async fn bind(&self, path: &str) -> Result<(), BoxError> {
        let name = path.rsplit('/').next().unwrap_or_default();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.node},
        });
        let request = Request::post(format!("{path}/binding"))
            .header("content-type", "application/json")
            .body(Body::from(binding.to_string().into_bytes()))?;
        let answer = self.admin.send(request).await?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(format!("the pod was not bound: {}", answer.status()).into()),
        }
    }
}

/// Moves the gates of a new pod to the annotation.
fn created(body: &[u8]) -> Result<Bytes, BoxError> {
    let mut pod: Value = serde_json::from_slice(body)?;
    let gates = pod["spec"]["schedulingGates"].take();
    if gates.as_array().is_some_and(|gates| !gates.is_empty()) {
        pod["metadata"]["annotations"][GATES] = json!(gates.to_string());
        pod["spec"]["schedulerName"] = json!(NO_SCHEDULER);
    }
    Ok(pod.to_string().into())
}

/// Restores the gates of a pod in its spec.
fn put_back(pod: &mut Value) {
    if pod["spec"]["schedulerName"] != NO_SCHEDULER {
        return;
    }
    pod["spec"]["schedulerName"] = json!("default-scheduler");
    let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() else { return };
    let Some(Value::String(gates)) = annotations.remove(GATES) else { return };
    let gates: Value = serde_json::from_str(&gates).unwrap_or_default();
    if gates.as_array().is_some_and(|gates| !gates.is_empty()) {
        pod["spec"]["schedulingGates"] = gates;
    }
}

fn whole(text: impl Into<Bytes>) -> Answer {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Returns a server's response to a patch with a failed test.
fn refused(message: &str) -> Response<Answer> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422,
        "message": format!("the server rejected our request due to an error in our request: {message}"),
    });
    let mut answer = Response::new(whole(status.to_string()));
    *answer.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    answer
}

/// Restores the gates in the events of a watch.
fn rewritten_lines(body: Body) -> Answer {
    let state = (body, BytesMut::new());
    let lines = stream::unfold(state, |(mut body, mut read)| async move {
        loop {
            if let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                let line = read.copy_to_bytes(end + 1);
                let frame = match serde_json::from_slice::<Value>(&line) {
                    Ok(mut event) => {
                        put_back(&mut event["object"]);
                        Ok(Frame::data(Bytes::from(format!("{event}\n"))))
                    }
                    Err(error) => Err(BoxError::from(error)),
                };
                return Some((frame, (body, read)));
            }
            match body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        read.extend_from_slice(&data);
                    }
                }
                Err(error) => return Some((Err(error.into()), (body, read))),
            }
        }
    });
    StreamBody::new(lines).boxed_unsync()
}
