//! The one way to the engine: all requests, bollard's too, go through [`Http`].
//!
//! It puts the negotiated API version before every path (bollard 0.21.1 loses its own, because it
//! joins an absolute path to the URL that has it), counts the requests, ends what is under way
//! when the runtime is closed, and gives answers as they stream.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Either, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioTimer;
use runtime_core::{ContainerId, Error, Operation, Result, ResultExt};
use runtime_support::backend::closed;
use runtime_support::kernel_log::KernelLog;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::connector::Connector;
use crate::error::{self, BACKEND};
use crate::model::engine::Clock;
use crate::options::{Endpoint, Place};

/// The body of a request: bytes, or a stream of them. It is bollard's type, so that one client
/// serves both.
pub(crate) type Body =
    Either<Full<Bytes>, StreamBody<Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>>>;

/// The longest answer that is read whole. The list of ten thousand containers is a tenth of it.
const LONGEST_ANSWER: usize = 256 << 20;

/// More idle connections than this are closed at once; dead ones leave the pool by themselves.
const IDLE_CONNECTIONS: usize = 32;

/// One request to the engine.
pub(crate) struct Call {
    operation: Operation,
    method: Method,
    target: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Body,
    has_body: bool,
}

impl Call {
    /// A request without a body. `path` is the path after the API version, with what is not a
    /// plain id or word in it [encoded](encode).
    pub(crate) fn new(operation: Operation, method: Method, path: impl Into<String>) -> Self {
        Self {
            operation,
            method,
            target: path.into(),
            headers: Vec::new(),
            body: Either::Left(Full::default()),
            has_body: false,
        }
    }

    /// A `GET`.
    pub(crate) fn get(operation: Operation, path: impl Into<String>) -> Self {
        Self::new(operation, Method::GET, path)
    }

    /// A `POST`.
    pub(crate) fn post(operation: Operation, path: impl Into<String>) -> Self {
        Self::new(operation, Method::POST, path)
    }

    /// Adds a query parameter, encoded.
    pub(crate) fn query(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.target.push(if self.target.contains('?') { '&' } else { '?' });
        self.target.push_str(name);
        self.target.push('=');
        self.target.push_str(&encode(&value.to_string()));
        self
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sends this as JSON.
    pub(crate) fn body(mut self, body: &serde_json::Value) -> Self {
        self.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        self.body = Either::Left(Full::from(body.to_string()));
        self.has_body = true;
        self
    }

    /// Sets `left` when the request begins to leave this process. It stays unset if the call is
    /// dropped, or fails, before that.
    pub(crate) fn noting(mut self, left: Arc<AtomicBool>) -> Self {
        // A body is polled once the head before it was written. This one is empty.
        let body = futures_util::stream::poll_fn(move |_| {
            left.store(true, Ordering::Relaxed);
            Poll::Ready(None)
        });
        self.body = Either::Right(StreamBody::new(Box::pin(body)));
        self
    }

    /// Asks for the connection itself, for bytes in both directions.
    pub(crate) fn upgrade(mut self) -> Self {
        self.headers.push((CONNECTION, HeaderValue::from_static("Upgrade")));
        self.headers.push((UPGRADE, HeaderValue::from_static("tcp")));
        self
    }

    /// Sends bytes as they come.
    pub(crate) fn stream(
        mut self,
        content_type: &'static str,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Self {
        self.headers.push((CONTENT_TYPE, HeaderValue::from_static(content_type)));
        self.body = Either::Right(StreamBody::new(Box::pin(body.map(|b| b.map(Frame::data)))));
        self.has_body = true;
        self
    }
}

/// Encodes a part of a path or a query.
pub(crate) fn encode(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The client of one engine.
pub(crate) struct Http {
    /// `None` once closed: that drops the pool and its idle connections.
    client: Mutex<Option<Client<Connector, Body>>>,
    endpoint: Endpoint,
    /// Before every path: the base path of the endpoint and the API version.
    prefix: String,
    /// The clock of the engine, where it is Docker's.
    docker_clock: Option<Clock>,
    /// The kernel's log, where Docker is on this host.
    kernel_log: Option<KernelLog>,
    sent: AtomicU64,
    closed: CancellationToken,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("endpoint", &self.endpoint)
            .field("prefix", &self.prefix)
            .field("sent", &self.requests_sent())
            .finish_non_exhaustive()
    }
}

impl Http {
    pub(crate) fn new(endpoint: Endpoint, connector: Connector) -> Self {
        let closed = CancellationToken::new();
        let client = Client::builder(UntilClosed(closed.clone()))
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .set_host(false)
            .build(connector);
        Self {
            client: Mutex::new(Some(client)),
            prefix: endpoint.base_path().to_owned(),
            docker_clock: None,
            kernel_log: None,
            endpoint,
            sent: AtomicU64::new(0),
            closed,
        }
    }

    /// Notes that Docker Engine is at the other end, and how its clock goes.
    pub(crate) fn is_docker(&mut self, clock: Clock) {
        self.docker_clock = Some(clock);
        // A socket may be one that is forwarded to another host. Then this log has nothing of the
        // containers there, whose ids are nobody else's.
        let is_here = matches!(self.endpoint.place(), Place::Unix(_));
        self.kernel_log = is_here.then(KernelLog::default);
    }

    /// Whether the kernel of this host says that it killed a process of this container because of
    /// a limit on memory. `false` where Docker is elsewhere, and for Podman, which does not say of
    /// any container that it ran out of memory.
    pub(crate) async fn kernel_tells_out_of_memory(&self, id: &ContainerId) -> bool {
        match &self.kernel_log {
            Some(log) => log.tells_out_of_memory(id).await,
            None => false,
        }
    }

    /// The clock of the engine, where it is known to be Docker's.
    pub(crate) fn clock_of_docker(&self) -> Option<Clock> {
        self.docker_clock
    }

    /// Speaks this version of the API from now on.
    pub(crate) fn speak(&mut self, version: impl fmt::Display) {
        self.prefix = format!("{}/v{version}", self.endpoint.base_path());
    }

    /// How many requests were sent, retries included.
    pub(crate) fn requests_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Where the engine is, for people.
    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Ends what is under way and closes the idle connections.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Completes when the runtime is closed.
    pub(crate) fn closed(&self) -> tokio_util::sync::WaitForCancellationFuture<'_> {
        self.closed.cancelled()
    }

    /// For tasks and streams that have to end when the runtime is closed.
    pub(crate) fn closed_token(&self) -> &CancellationToken {
        &self.closed
    }

    /// Sends a request and gives the answer whatever its status.
    pub(crate) async fn send(&self, call: Call) -> Result<Response<Incoming>> {
        let Call { operation, method, target, headers, body, has_body } = call;
        let retry = !has_body && (method == Method::GET || method == Method::HEAD);
        let request = |body: Body| {
            let mut request = Request::new(body);
            *request.method_mut() = method.clone();
            *request.uri_mut() = self.uri(&target).during(operation)?;
            request.headers_mut().extend(headers.iter().cloned());
            Ok::<_, Error>(request)
        };
        let answer = self.exchange(request(body)?).await;
        match answer {
            // The engine closed an idle connection just when it was used again. The client
            // repeats by itself what it had not begun to send; what it had is repeated here, if
            // it was only a question.
            Err(error) if retry && error.lost => {
                self.exchange(request(Either::Left(Full::default()))?).await
            }
            answer => answer,
        }
        .map_err(|failure| failure.error.during(operation).on(BACKEND))
    }

    /// Sends a request. An answer of 400 or above is an error, and so is one that sends us
    /// elsewhere: no path of ours is that wrong.
    pub(crate) async fn call(&self, call: Call) -> Result<Response<Incoming>> {
        let operation = call.operation;
        let answer = self.send(call).await?;
        self.check(operation, answer).await
    }

    /// Turns an answer of 400 or above into its error.
    pub(crate) async fn check(
        &self,
        operation: Operation,
        answer: Response<Incoming>,
    ) -> Result<Response<Incoming>> {
        let status = answer.status();
        let elsewhere = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
        if !elsewhere && !status.is_client_error() && !status.is_server_error() {
            return Ok(answer);
        }
        let body = self.whole(operation, answer).await.unwrap_or_default();
        Err(error::from_answer(operation, status, &body).on(BACKEND))
    }

    /// Sends a request and reads a JSON answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let operation = call.operation;
        let answer = self.call(call).await?;
        let body = self.whole(operation, answer).await?;
        serde_json::from_slice(&body).map_err(|source| {
            Error::internal("the engine's answer is not what its API says")
                .with_source(source)
                .during(operation)
                .on(BACKEND)
        })
    }

    /// Sends a request, reads the answer to its end so that the connection can serve again, and
    /// gives the status.
    pub(crate) async fn unit(&self, call: Call) -> Result<StatusCode> {
        let operation = call.operation;
        let answer = self.call(call).await?;
        let status = answer.status();
        self.whole(operation, answer).await?;
        Ok(status)
    }

    /// Reads an answer to its end.
    pub(crate) async fn whole(
        &self,
        operation: Operation,
        answer: Response<Incoming>,
    ) -> Result<Bytes> {
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect();
        tokio::select! {
            biased;
            () = self.closed() => Err(closed().during(operation).on(BACKEND)),
            body = body => match body {
                Ok(body) => Ok(body.to_bytes()),
                Err(source) => Err(error::cut_off(source).during(operation).on(BACKEND)),
            },
        }
    }

    /// The bytes of an answer as they come. The stream ends with an error when the connection is
    /// lost or the runtime is closed, and dropping it closes the connection unless the answer
    /// was read to its end.
    pub(crate) fn stream(
        self: &Arc<Self>,
        operation: Operation,
        answer: Response<Incoming>,
    ) -> impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static {
        let end = self.closed.clone().cancelled_owned();
        let end = async move {
            end.await;
            Err(closed().during(operation).on(BACKEND))
        };
        let bytes = answer.into_body().into_data_stream().map(move |bytes| {
            bytes.map_err(|source| error::cut_off(source).during(operation).on(BACKEND))
        });
        until(bytes, end)
    }

    fn uri(&self, target: &str) -> Result<Uri> {
        format!("http://{}{}{target}", self.endpoint.authority(), self.prefix)
            .parse()
            .map_err(|source| Error::internal(format!("{target:?} is no path")).with_source(source))
    }

    async fn exchange(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let host = HeaderValue::from_str(self.endpoint.authority())
            .unwrap_or(HeaderValue::from_static("localhost"));
        request.headers_mut().insert(HOST, host);
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(client) = client else { return Err(Failure { error: closed(), lost: false }) };
        self.sent.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = self.closed() => Err(Failure { error: closed(), lost: false }),
            answer = client.request(request) => answer.map_err(|source| {
                let lost = !source.is_connect();
                Failure { error: error::from_transport(&self.endpoint, source), lost }
            }),
        }
    }
}

/// Runs the tasks of the connections until the runtime is closed: a stream that nobody reads just
/// then would otherwise keep its connection.
#[derive(Clone)]
struct UntilClosed(CancellationToken);

impl<F> hyper::rt::Executor<F> for UntilClosed
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(task));
    }
}

struct Failure {
    error: Error,
    /// Whether the connection had been there and went away before the answer.
    lost: bool,
}

/// Gives the items of `stream` until its end or until `end` completes, whose item then is the
/// last one.
pub(crate) fn until<T, S>(
    stream: S,
    end: impl Future<Output = T> + Send + 'static,
) -> Pin<Box<dyn Stream<Item = T> + Send>>
where
    T: Send + 'static,
    S: Stream<Item = T> + Send + 'static,
{
    let mut state = Some((Box::pin(stream), Box::pin(end)));
    Box::pin(futures_util::stream::poll_fn(move |cx| {
        let Some((stream, end)) = &mut state else { return Poll::Ready(None) };
        if let Poll::Ready(last) = end.as_mut().poll(cx) {
            state = None;
            return Poll::Ready(Some(last));
        }
        let item = ready!(stream.as_mut().poll_next(cx));
        if item.is_none() {
            state = None;
        }
        Poll::Ready(item)
    }))
}

/// A bollard client that sends through `http`.
pub(crate) fn bollard(http: &Arc<Http>) -> Result<bollard::Docker> {
    let http = Arc::clone(http);
    let transport = move |request: bollard::BollardRequest| {
        let http = Arc::clone(&http);
        async move {
            let (mut parts, body) = request.into_parts();
            let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
            parts.uri = http.uri(target).map_err(into_bollard)?;
            http.exchange(Request::from_parts(parts, body))
                .await
                .map_err(|failure| into_bollard(failure.error))
        }
    };
    // The deadlines are ours: bollard's is put out of the way, for a stop may take longer than
    // any fixed one.
    const NEVER: u64 = 100 * 365 * 24 * 3600;
    bollard::Docker::connect_with_custom_transport(
        transport,
        Some("http://engine"),
        NEVER,
        bollard::API_DEFAULT_VERSION,
    )
    .map_err(|source| Error::internal("no client").with_source(source))
}

/// Our errors pass through bollard as what an I/O error carries.
fn into_bollard(error: Error) -> bollard::errors::Error {
    io::Error::other(error).into()
}
