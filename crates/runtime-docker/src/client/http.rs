//! The HTTP client. All requests, including bollard's, are sent by [`Http`].
//!
//! It prefixes each path with the negotiated API version (bollard 0.21.1 loses its own, because it
//! joins an absolute path to the URL with the version), counts the requests, cancels them when the
//! runtime is closed, and returns responses as streams.

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
use crate::model::engine::ClockOffset;
use crate::options::{Address, Endpoint};

/// The body of a request: bytes, or a stream of bytes. The type is bollard's, so that both use one
/// client.
pub(crate) type Body =
    Either<Full<Bytes>, StreamBody<Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>>>;

/// The size limit of a buffered response. A list of ten thousand containers has a tenth of it.
const RESPONSE_SIZE_MAX: usize = 256 << 20;

/// The number of idle connections in the pool. The pool evicts closed connections itself.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// A request to the engine.
pub(crate) struct ApiRequest {
    operation: Operation,
    method: Method,
    target: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Body,
    has_body: bool,
}

impl ApiRequest {
    /// Creates a request without a body. `path` follows the API version. Its parts have to be
    /// [encoded](encode), except for ids.
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

    /// Creates a `GET` request.
    pub(crate) fn get(operation: Operation, path: impl Into<String>) -> Self {
        Self::new(operation, Method::GET, path)
    }

    /// Creates a `POST` request.
    pub(crate) fn post(operation: Operation, path: impl Into<String>) -> Self {
        Self::new(operation, Method::POST, path)
    }

    /// Encodes and adds a query parameter.
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

    /// Sets a JSON body.
    pub(crate) fn body(mut self, body: &serde_json::Value) -> Self {
        self.headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        self.body = Either::Left(Full::from(body.to_string()));
        self.has_body = true;
        self
    }

    /// Sets `sent` when the first bytes of the request are written. It stays unset if the request is
    /// dropped, or fails, before that.
    pub(crate) fn noting(mut self, sent: Arc<AtomicBool>) -> Self {
        // The body is empty. It is polled after the head was written.
        let body = futures_util::stream::poll_fn(move |_| {
            sent.store(true, Ordering::Relaxed);
            Poll::Ready(None)
        });
        self.body = Either::Right(StreamBody::new(Box::pin(body)));
        self
    }

    /// Requests an upgrade of the connection to a byte stream in both directions.
    pub(crate) fn upgrade(mut self) -> Self {
        self.headers.push((CONNECTION, HeaderValue::from_static("Upgrade")));
        self.headers.push((UPGRADE, HeaderValue::from_static("tcp")));
        self
    }

    /// Sets a streamed body.
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

/// Percent-encodes a part of a path or a query.
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

/// The HTTP client of one engine.
pub(crate) struct Http {
    /// `None` after the close, which drops the pool and its idle connections.
    client: Mutex<Option<Client<Connector, Body>>>,
    endpoint: Endpoint,
    /// The prefix of each path: the base path of the endpoint and the API version.
    prefix: String,
    /// The clock of the engine, if it is Docker.
    docker_clock: Option<ClockOffset>,
    /// The kernel's log, if Docker is on this host.
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
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
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

    /// Records that the engine is Docker, and its clock.
    pub(crate) fn set_docker(&mut self, clock: ClockOffset) {
        self.docker_clock = Some(clock);
        // A socket can be forwarded to another host. Then this log has no record of its containers,
        // because their ids are unique.
        let is_local = matches!(self.endpoint.address(), Address::Unix(_));
        self.kernel_log = is_local.then(KernelLog::default);
    }

    /// Returns `true` if the kernel's log of this host has a kill of a process of this container by a
    /// memory limit. Returns `false` if Docker is on another host, and for Podman, which reports no
    /// container as out of memory.
    pub(crate) async fn kernel_reports_out_of_memory(&self, id: &ContainerId) -> bool {
        match &self.kernel_log {
            Some(log) => log.tells_out_of_memory(id).await,
            None => false,
        }
    }

    /// Returns the clock of the engine, if it is Docker.
    pub(crate) fn docker_clock(&self) -> Option<ClockOffset> {
        self.docker_clock
    }

    /// Sets the API version of later requests.
    pub(crate) fn set_version(&mut self, version: impl fmt::Display) {
        self.prefix = format!("{}/v{version}", self.endpoint.base_path());
    }

    /// Returns the number of sent requests, retries included.
    pub(crate) fn requests_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns the endpoint of the engine.
    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Cancels the requests in flight and closes the idle connections.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Completes when the client is closed.
    pub(crate) fn closed(&self) -> tokio_util::sync::WaitForCancellationFuture<'_> {
        self.closed.cancelled()
    }

    /// Returns the token that is cancelled when the client is closed.
    pub(crate) fn closed_token(&self) -> &CancellationToken {
        &self.closed
    }

    /// Sends a request and returns the response with any status.
    pub(crate) async fn send(&self, request: ApiRequest) -> Result<Response<Incoming>> {
        let ApiRequest { operation, method, target, headers, body, has_body } = request;
        let retry = !has_body && (method == Method::GET || method == Method::HEAD);
        let build = |body: Body| {
            let mut request = Request::new(body);
            *request.method_mut() = method.clone();
            *request.uri_mut() = self.uri(&target).during(operation)?;
            request.headers_mut().extend(headers.iter().cloned());
            Ok::<_, Error>(request)
        };
        let response = self.exchange(build(body)?).await;
        match response {
            // The engine has closed an idle connection just before its reuse. hyper retries a request
            // of which nothing was sent. A read is retried here in any case.
            Err(error) if retry && error.lost => {
                self.exchange(build(Either::Left(Full::default()))?).await
            }
            response => response,
        }
        .map_err(|failure| failure.error.during(operation).on(BACKEND))
    }

    /// Sends a request. Returns an error for a status of 400 or above, and for a redirect, because an
    /// engine redirects no path of its API.
    pub(crate) async fn call(&self, request: ApiRequest) -> Result<Response<Incoming>> {
        let operation = request.operation;
        let response = self.send(request).await?;
        self.check(operation, response).await
    }

    /// Turns a response with a status of 400 or above into its error.
    pub(crate) async fn check(
        &self,
        operation: Operation,
        response: Response<Incoming>,
    ) -> Result<Response<Incoming>> {
        let status = response.status();
        let is_redirect = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
        if !is_redirect && !status.is_client_error() && !status.is_server_error() {
            return Ok(response);
        }
        let body = self.whole(operation, response).await.unwrap_or_default();
        Err(error::from_response(operation, status, &body).on(BACKEND))
    }

    /// Sends a request and parses the JSON response.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: ApiRequest) -> Result<T> {
        let operation = request.operation;
        let response = self.call(request).await?;
        let body = self.whole(operation, response).await?;
        serde_json::from_slice(&body)
            .map_err(|source| error::invalid_response(source).during(operation).on(BACKEND))
    }

    /// Sends a request and returns the status. Reads the response to its end, so that the connection
    /// can be reused.
    pub(crate) async fn unit(&self, request: ApiRequest) -> Result<StatusCode> {
        let operation = request.operation;
        let response = self.call(request).await?;
        let status = response.status();
        self.whole(operation, response).await?;
        Ok(status)
    }

    /// Reads a response to its end.
    pub(crate) async fn whole(
        &self,
        operation: Operation,
        response: Response<Incoming>,
    ) -> Result<Bytes> {
        let body = Limited::new(response.into_body(), RESPONSE_SIZE_MAX).collect();
        tokio::select! {
            biased;
            () = self.closed() => Err(closed().during(operation).on(BACKEND)),
            body = body => match body {
                Ok(body) => Ok(body.to_bytes()),
                Err(source) => Err(error::connection_lost(source).during(operation).on(BACKEND)),
            },
        }
    }

    /// Returns the body of a response as a stream. The stream ends with an error when the
    /// connection is lost or the client is closed. Dropping it before its end closes the
    /// connection.
    pub(crate) fn stream(
        self: &Arc<Self>,
        operation: Operation,
        response: Response<Incoming>,
    ) -> impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static {
        let end = self.closed.clone().cancelled_owned();
        let end = async move {
            end.await;
            Err(closed().during(operation).on(BACKEND))
        };
        let bytes = response.into_body().into_data_stream().map(move |bytes| {
            bytes.map_err(|source| error::connection_lost(source).during(operation).on(BACKEND))
        });
        until(bytes, end)
    }

    fn uri(&self, target: &str) -> Result<Uri> {
        format!("http://{}{}{target}", self.endpoint.authority(), self.prefix).parse().map_err(
            |source| Error::internal(format!("{target:?} is not a valid path")).with_source(source),
        )
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
            response = client.request(request) => response.map_err(|source| {
                let lost = !source.is_connect();
                Failure { error: error::from_transport(&self.endpoint, source), lost }
            }),
        }
    }
}

/// Runs the tasks of the connections until the client is closed. Otherwise a stream that is not
/// polled would keep its connection open.
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
    /// `true` if an open connection was lost before the response.
    lost: bool,
}

/// Returns the items of `stream` until its end, or until `end` completes. The output of `end` is then
/// the last item.
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

/// Creates a bollard client that sends its requests by `http`.
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
    // The operations have deadlines of their own. bollard's fixed timeout is disabled, because a
    // stop can take longer.
    const NEVER: u64 = 100 * 365 * 24 * 3600;
    bollard::Docker::connect_with_custom_transport(
        transport,
        Some("http://engine"),
        NEVER,
        bollard::API_DEFAULT_VERSION,
    )
    .map_err(|source| Error::internal("failed to create the bollard client").with_source(source))
}

/// Wraps an error of this library in an I/O error, which bollard passes through.
fn into_bollard(error: Error) -> bollard::errors::Error {
    io::Error::other(error).into()
}
