//! An API server with version 5 of the WebSocket protocol in front of one without it.
//!
//! From 1.30 on an API server accepts sessions as WebSockets and uses SPDY for the connection to the node.
//! The relay does the same in front of an older server: it accepts the WebSocket, opens the session at the
//! real server over SPDY, and forwards the bytes. All other requests pass through. Its watches can be made to
//! stall or expire, like those of a busy server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use runtime_conformance::BoxError;
use serde_json::{Value, json};
use spdy_client::remote_command::{self, Failure, Outcome, Session, Streams};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

/// State of the open watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watches {
    /// Events are forwarded.
    Pass,
    /// Watches stay open and send nothing.
    Silent,
    /// The server has dropped their resource version and ends them.
    Expired,
}

/// Body of a response.
type Answer = UnsyncBoxBody<Bytes, BoxError>;

const PROTOCOL: &str = "v5.channel.k8s.io";

/// Serves on loopback until the runtime ends, with the rights of a kubeconfig. Each new pod gets `sidecars`
/// before its own container, as from an admission webhook.
///
/// # Errors
/// If the kubeconfig is invalid.
pub(crate) async fn serve(
    kubeconfig: &Path,
    watches: Option<watch::Receiver<Watches>>,
    sidecars: Vec<Value>,
) -> Result<SocketAddr, BoxError> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.read_timeout = None;
    config.default_retry = false;
    let client = kube::Client::try_from(config)?;
    let sidecars = Arc::new(sidecars);
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (client, watches) = (client.clone(), watches.clone());
            let sidecars = Arc::clone(&sidecars);
            let service = service_fn(move |request| {
                let (client, watches) = (client.clone(), watches.clone());
                let sidecars = Arc::clone(&sidecars);
                async move {
                    let answered = answer(client, watches, &sidecars, request).await;
                    answered.map_err(|error| std::io::Error::other(error.to_string()))
                }
            });
            tokio::spawn(async move {
                // The client sees the end of the connection as well, and may disconnect at any time.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    Ok(address)
}

async fn answer(
    client: kube::Client,
    watches: Option<watch::Receiver<Watches>>,
    sidecars: &[Value],
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, BoxError> {
    let Some(key) = request.headers_mut().remove(SEC_WEBSOCKET_KEY) else {
        let (mut head, body) = request.into_parts();
        let mut body = body.collect().await?.to_bytes().to_vec();
        if head.method == Method::POST && head.uri.path().ends_with("/pods") {
            body = with_sidecars(&body, sidecars)?;
            head.headers.remove(CONTENT_LENGTH);
        }
        let body = Body::from(body);
        let is_watch = head.uri.query().is_some_and(|query| query.contains("watch="));
        let answer = client.send(Request::from_parts(head, body)).await?;
        return Ok(match watches {
            Some(watches) if is_watch => answer.map(|body| forgetful(body, watches)),
            _ => answer.map(whole),
        });
    };
    if request.headers().get(SEC_WEBSOCKET_PROTOCOL).is_none_or(|asked| asked != PROTOCOL) {
        return Ok(Response::builder().status(StatusCode::FORBIDDEN).body(whole(Body::empty()))?);
    }
    let asked = streams(request.uri().query().unwrap_or_default());
    let upgrade = remote_command::upgrade_request(request.uri().clone(), HeaderMap::new());
    let answer = client.send(upgrade.map(|()| Body::empty())).await?;
    if remote_command::check_upgrade(answer.status(), answer.headers()).is_err() {
        return Ok(answer.map(whole));
    }
    let io = TokioIo::new(hyper::upgrade::on(answer).await?);
    let session = remote_command::start(io, &remote_command::Options::new(asked)).await?;
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let io = TokioIo::new(upgraded);
        pass(WebSocketStream::from_raw_socket(io, Role::Server, None).await, session).await;
    });
    Ok(Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .body(whole(Body::empty()))?)
}

/// Adds containers before the own container of a new pod.
fn with_sidecars(body: &[u8], sidecars: &[Value]) -> Result<Vec<u8>, BoxError> {
    let mut pod: Value = serde_json::from_slice(body)?;
    let containers = pod["spec"]["containers"].as_array_mut().ok_or("a pod without containers")?;
    containers.splice(0..0, sidecars.iter().cloned());
    Ok(pod.to_string().into_bytes())
}

/// Returns a body unchanged.
fn whole(body: Body) -> Answer {
    body.map_err(BoxError::from).boxed_unsync()
}

/// Returns a watch that turns silent or expires with `watches`. A watch that begins later passes.
fn forgetful(body: Body, mut watches: watch::Receiver<Watches>) -> Answer {
    let now = match *watches.borrow_and_update() {
        Watches::Expired => Watches::Pass,
        now => now,
    };
    let lines = stream::unfold(Some((body, watches, now)), |state| async move {
        let (mut body, mut watches, mut now) = state?;
        loop {
            match now {
                Watches::Pass => tokio::select! {
                    frame = body.frame() => {
                        let frame = frame?;
                        return Some((frame, Some((body, watches, now))));
                    }
                    changed = watches.changed() => changed.ok()?,
                },
                Watches::Silent => watches.changed().await.ok()?,
                Watches::Expired => {
                    let status = json!({"type": "ERROR", "object": {
                        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
                        "reason": "Expired", "message": "too old resource version",
                    }});
                    return Some((Ok(Frame::data(Bytes::from(format!("{status}\n")))), None));
                }
            }
            now = *watches.borrow_and_update();
        }
    });
    StreamBody::new(lines).map_err(|error: kube::Error| error.into()).boxed_unsync()
}

fn streams(query: &str) -> Streams {
    let is = |name: &str| {
        form_urlencoded::parse(query.as_bytes()).any(|(key, value)| key == name && value == "true")
    };
    Streams::none().stdin(is("stdin")).stdout(is("stdout")).stderr(is("stderr")).tty(is("tty"))
}

/// Forwards data in both directions until the session has ended or the client has disconnected.
async fn pass<T>(socket: WebSocketStream<T>, session: Session)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sink, mut messages) = socket.split();
    let sink = Arc::new(Mutex::new(sink));
    let Session { mut stdin, stdout, stderr, resize, exit, .. } = session;
    let say = |message: Vec<u8>| {
        let sink = Arc::clone(&sink);
        async move { sink.lock().await.send(Message::Binary(message.into())).await.is_ok() }
    };
    let outputs = async {
        let both = [(1, stdout), (2, stderr)];
        let both = both.into_iter().filter_map(|(number, output)| Some((number, output?)));
        stream::iter(both)
            .for_each_concurrent(None, |(number, mut output)| async move {
                while let Ok(Some(piece)) = output.chunk().await {
                    if !say([&[number], &piece[..]].concat()).await {
                        return;
                    }
                }
                say(vec![255, number]).await;
            })
            .await;
        if let Ok(outcome) = exit.wait().await {
            say([&[3], status(&outcome).to_string().as_bytes()].concat()).await;
        }
        let _ = sink.lock().await.close().await;
    };
    let inputs = async {
        while let Some(Ok(message)) = messages.next().await {
            let Message::Binary(message) = message else { continue };
            match (message.first(), &mut stdin, &resize) {
                (Some(0), Some(stdin), _) => {
                    let _ = stdin.write_all(&message[1..]).await;
                    let _ = stdin.flush().await;
                }
                (Some(255), Some(stdin), _) if message.get(1) == Some(&0) => {
                    let _ = stdin.shutdown().await;
                }
                (Some(4), _, Some(resize)) => {
                    let size: serde_json::Value =
                        serde_json::from_slice(&message[1..]).unwrap_or_default();
                    let of = |name: &str| size[name].as_u64().unwrap_or(0) as u16;
                    let _ = resize.send(of("Width"), of("Height")).await;
                }
                _ => {}
            }
        }
    };
    tokio::select! {
        () = outputs => {}
        () = inputs => {}
    }
}

/// Returns the outcome as a Kubernetes `Status`.
fn status(outcome: &Outcome) -> serde_json::Value {
    match outcome {
        Outcome::ExitCode(code) => json!({
            "status": "Failure", "reason": "NonZeroExitCode",
            "message": "command terminated with non-zero exit code",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Outcome::Failure(Failure { reason, message, code, .. }) => json!({
            "status": "Failure", "reason": reason, "message": message, "code": code,
        }),
        _ => json!({"status": "Success"}),
    }
}
