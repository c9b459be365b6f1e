//! gRPC client of an engine.

pub(crate) mod engine;
pub(crate) mod streaming;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use runtime_core::{Backoff, Error, ErrorKind, Operation, Result};
use runtime_support::OnExecutor;
use runtime_support::backend::closed;
use tokio::net::UnixStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use crate::BACKEND;
use crate::error::from_status;
use crate::generated as cri;
use crate::generated::image_service_client::ImageServiceClient;
use crate::generated::runtime_service_client::RuntimeServiceClient;
use crate::host::peer::Peer;
use crate::options::Endpoint;

/// Maximum size of a response. containerd sends at most 16 MiB.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Client with one connection, which is opened on demand, after it was lost, and after the end of
/// the executor on which it was opened.
#[derive(Debug)]
pub(crate) struct Client {
    /// `None` after the client is closed.
    channel: Mutex<Option<OnExecutor<Channel>>>,
    endpoint: Arc<Endpoint>,
    requests: AtomicU64,
    peer: Peer,
}

/// A request message of a CRI method.
pub(crate) trait Request: Clone + Send + 'static {
    /// The message, or stream of messages, that the method returns.
    type Response: Send;

    /// Name of the method.
    const METHOD: &'static str;

    /// Sends the request.
    fn send(
        self,
        channel: Channel,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
}

macro_rules! methods {
    ($($client:ident: $method:ident($request:ident) -> $response:ty;)*) => {
        $(impl Request for cri::$request {
            type Response = $response;
            const METHOD: &'static str = stringify!($method);

            async fn send(
                self,
                channel: Channel,
            ) -> Result<Response<Self::Response>, Status> {
                let client = $client::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
                { client }.$method(self).await
            }
        })*
    };
}

// The methods that this crate calls.
methods! {
    RuntimeServiceClient: version(VersionRequest) -> cri::VersionResponse;
    RuntimeServiceClient: status(StatusRequest) -> cri::StatusResponse;
    RuntimeServiceClient: run_pod_sandbox(RunPodSandboxRequest) -> cri::RunPodSandboxResponse;
    RuntimeServiceClient: stop_pod_sandbox(StopPodSandboxRequest) -> cri::StopPodSandboxResponse;
    RuntimeServiceClient: remove_pod_sandbox(RemovePodSandboxRequest)
        -> cri::RemovePodSandboxResponse;
    RuntimeServiceClient: pod_sandbox_status(PodSandboxStatusRequest)
        -> cri::PodSandboxStatusResponse;
    RuntimeServiceClient: list_pod_sandbox(ListPodSandboxRequest) -> cri::ListPodSandboxResponse;
    RuntimeServiceClient: create_container(CreateContainerRequest)
        -> cri::CreateContainerResponse;
    RuntimeServiceClient: start_container(StartContainerRequest) -> cri::StartContainerResponse;
    RuntimeServiceClient: stop_container(StopContainerRequest) -> cri::StopContainerResponse;
    RuntimeServiceClient: list_containers(ListContainersRequest) -> cri::ListContainersResponse;
    RuntimeServiceClient: container_status(ContainerStatusRequest)
        -> cri::ContainerStatusResponse;
    RuntimeServiceClient: reopen_container_log(ReopenContainerLogRequest)
        -> cri::ReopenContainerLogResponse;
    RuntimeServiceClient: exec(ExecRequest) -> cri::ExecResponse;
    RuntimeServiceClient: attach(AttachRequest) -> cri::AttachResponse;
    RuntimeServiceClient: container_stats(ContainerStatsRequest) -> cri::ContainerStatsResponse;
    RuntimeServiceClient: list_container_stats(ListContainerStatsRequest)
        -> cri::ListContainerStatsResponse;
    RuntimeServiceClient: get_container_events(GetEventsRequest)
        -> Streaming<cri::ContainerEventResponse>;
    ImageServiceClient: image_status(ImageStatusRequest) -> cri::ImageStatusResponse;
    ImageServiceClient: pull_image(PullImageRequest) -> cri::PullImageResponse;
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint, connect: Duration) -> Self {
        let endpoint = Arc::new(endpoint);
        let peer = Peer::default();
        let connector = {
            let (endpoint, peer) = (endpoint.clone(), peer.clone());
            tower::service_fn(move |_: http::Uri| {
                let (endpoint, peer) = (endpoint.clone(), peer.clone());
                async move {
                    let stream = UnixStream::connect(&endpoint.socket).await?;
                    peer.record(&stream);
                    Ok::<_, std::io::Error>(TokioIo::new(stream))
                }
            })
        };
        // The address is never resolved, because the connector opens the socket.
        //
        // No keepalive pings: grpc-go, which the engines use, closes the connection after a few
        // pings that are less than five minutes apart, in the middle of a long pull or stop
        // (grpc-go's `keepalive.EnforcementPolicy`). Pings are not needed either: the kernel closes
        // the socket of an engine that dies, and deadlines end the requests to one that hangs.
        let open = move || {
            tonic::transport::Endpoint::from_static("http://localhost")
                .connect_timeout(connect)
                .connect_with_connector_lazy(connector.clone())
        };
        let channel = Mutex::new(Some(OnExecutor::new(open(), move || Some(open()))));
        Self { channel, endpoint, requests: AtomicU64::new(0), peer }
    }

    /// Returns the process at the other end of the socket.
    pub(crate) const fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns the number of requests that were sent.
    pub(crate) fn requests_sent(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Closes the connection after the requests in progress.
    pub(crate) fn close(&self) {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Sends a request and waits for the response without a deadline.
    pub(crate) async fn call_without_deadline<R: Request>(
        &self,
        operation: Operation,
        request: R,
    ) -> Result<R::Response> {
        let mut backoff = Backoff::default();
        loop {
            let channel = {
                let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
                channel.as_ref().ok_or_else(|| closed().on(BACKEND))?.get()
            };
            self.requests.fetch_add(1, Ordering::Relaxed);
            match request.clone().send(channel).await {
                Ok(response) => return Ok(response.into_inner()),
                // containerd responds shortly before it is ready. It has done nothing then.
                Err(status) if is_not_ready(&status) => tokio::time::sleep(backoff.delay()).await,
                Err(status) => {
                    let error = from_status(R::METHOD, &self.endpoint, status);
                    return Err(error.during(operation).on(BACKEND));
                }
            }
        }
    }

    /// Sends a request and waits for the response, for at most `deadline`.
    pub(crate) async fn call<R: Request>(
        &self,
        operation: Operation,
        deadline: Duration,
        request: R,
    ) -> Result<R::Response> {
        match tokio::time::timeout(deadline, self.call_without_deadline(operation, request)).await {
            Ok(response) => response,
            Err(_) => Err(too_late(operation, deadline)),
        }
    }
}

fn is_not_ready(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown)
        && status.message().contains("server is not initialized yet")
}

/// Returns the error for a response that does not arrive in time.
pub(crate) fn too_late(operation: Operation, deadline: Duration) -> Error {
    Error::new(ErrorKind::Timeout)
        .with_message(format!("the engine did not respond within {deadline:?}"))
        .during(operation)
        .on(BACKEND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, HEADERS, PING, Says};

    #[tokio::test(start_paused = true)]
    async fn pending_request_sends_no_ping() {
        let fake = Fake::start(Says::Nothing);
        let client = Client::new(fake.endpoint(), Duration::from_secs(10));
        let request = cri::StopContainerRequest::default();
        let hour = Duration::from_secs(3600);
        let error = client.call(Operation::Stop, hour, request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let frames = fake.frames();
        assert!(frames.contains(&HEADERS) && !frames.contains(&PING), "{frames:?}");
    }
}
