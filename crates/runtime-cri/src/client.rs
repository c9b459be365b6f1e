//! All calls to the engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use runtime_core::{Backoff, Error, ErrorKind, Operation, Result};
use runtime_support::OnExecutor;
use tokio::net::UnixStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use crate::BACKEND;
use crate::connect::Endpoint;
use crate::error::from_status;
use crate::generated as cri;
use crate::generated::image_service_client::ImageServiceClient;
use crate::generated::runtime_service_client::RuntimeServiceClient;
use crate::host::Peer;
use crate::shared::is_closed;

/// The longest answer that is taken. containerd itself sends no more than 16 MiB.
const LONGEST_ANSWER: usize = 64 << 20;

/// One connection, opened when it is needed and again when it was lost, also with the executor that
/// it was opened on.
#[derive(Debug)]
pub(crate) struct Client {
    /// `None` once it is closed.
    channel: Mutex<Option<OnExecutor<Channel>>>,
    endpoint: Arc<Endpoint>,
    requests: AtomicU64,
    peer: Peer,
}

/// A question, and the call of the CRI that it is for.
pub(crate) trait Call: Clone + Send + 'static {
    /// What the engine answers.
    type Answer: Send;

    /// The name of the call.
    const NAME: &'static str;

    /// Sends it.
    fn send(
        self,
        channel: Channel,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

macro_rules! calls {
    ($($client:ident: $method:ident($question:ident) -> $answer:ty;)*) => {
        $(impl Call for cri::$question {
            type Answer = $answer;
            const NAME: &'static str = stringify!($method);

            async fn send(
                self,
                channel: Channel,
            ) -> Result<Response<Self::Answer>, Status> {
                let client = $client::new(channel).max_decoding_message_size(LONGEST_ANSWER);
                { client }.$method(self).await
            }
        })*
    };
}

// All that this crate asks an engine for.
calls! {
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
                    peer.learn(&stream);
                    Ok::<_, std::io::Error>(TokioIo::new(stream))
                }
            })
        };
        // The address is never resolved: the connector knows the socket.
        //
        // Without pings: grpc-go, which the engines are made with, takes those that come more often
        // than every five minutes for an attack and closes the connection after a few, in the middle
        // of a pull or a stop that takes long (grpc-go's `keepalive.EnforcementPolicy`). Nor are they
        // needed: the kernel closes the socket of an engine that dies, and of one that stands still
        // the deadlines tell.
        let open = move || {
            tonic::transport::Endpoint::from_static("http://localhost")
                .connect_timeout(connect)
                .connect_with_connector_lazy(connector.clone())
        };
        let channel = Mutex::new(Some(OnExecutor::new(open(), move || Some(open()))));
        Self { channel, endpoint, requests: AtomicU64::new(0), peer }
    }

    /// The process at the other end.
    pub(crate) const fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How many requests were sent.
    pub(crate) fn requests_sent(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Lets go of the connection. It ends with the calls that are under way.
    pub(crate) fn close(&self) {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Asks, and waits for the answer without a deadline.
    pub(crate) async fn ask_patiently<C: Call>(
        &self,
        operation: Operation,
        question: C,
    ) -> Result<C::Answer> {
        let mut backoff = Backoff::default();
        loop {
            let channel = {
                let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
                channel.as_ref().ok_or_else(is_closed)?.get()
            };
            self.requests.fetch_add(1, Ordering::Relaxed);
            match question.clone().send(channel).await {
                Ok(answer) => return Ok(answer.into_inner()),
                // containerd answers a little before it is ready. It has done nothing then.
                Err(status) if is_not_ready(&status) => tokio::time::sleep(backoff.delay()).await,
                Err(status) => {
                    let error = from_status(C::NAME, &self.endpoint, status);
                    return Err(error.during(operation).on(BACKEND));
                }
            }
        }
    }

    /// Asks, and waits for the answer, but no longer than `deadline`.
    pub(crate) async fn ask<C: Call>(
        &self,
        operation: Operation,
        deadline: Duration,
        question: C,
    ) -> Result<C::Answer> {
        match tokio::time::timeout(deadline, self.ask_patiently(operation, question)).await {
            Ok(answer) => answer,
            Err(_) => Err(too_late(operation, deadline)),
        }
    }
}

fn is_not_ready(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown)
        && status.message().contains("server is not initialized yet")
}

/// The error for an answer that does not come.
pub(crate) fn too_late(operation: Operation, deadline: Duration) -> Error {
    Error::new(ErrorKind::Timeout)
        .with_message(format!("the engine has not answered within {deadline:?}"))
        .during(operation)
        .on(BACKEND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, HEADERS, PING, Says};

    #[tokio::test(start_paused = true)]
    async fn an_engine_at_work_is_left_in_peace() {
        let fake = Fake::start(Says::Nothing);
        let client = Client::new(fake.endpoint(), Duration::from_secs(10));
        let question = cri::StopContainerRequest::default();
        let hour = Duration::from_secs(3600);
        let error = client.ask(Operation::Stop, hour, question).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let frames = fake.frames();
        assert!(frames.contains(&HEADERS) && !frames.contains(&PING), "{frames:?}");
    }
}
