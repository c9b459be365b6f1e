//! All calls to the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use runtime_core::{Error, ErrorKind, Operation, Result};
use tokio::net::UnixStream;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::BACKEND;
use crate::connect::Endpoint;
use crate::error::from_status;
use crate::generated::image_service_client::ImageServiceClient;
use crate::generated::runtime_service_client::RuntimeServiceClient;
use crate::host::Peer;

/// The longest answer that is taken. containerd itself sends no more than 16 MiB.
const LONGEST_ANSWER: usize = 64 << 20;

/// One connection, opened when it is needed and again when it was lost.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    endpoint: Arc<Endpoint>,
    requests: Arc<AtomicU64>,
    peer: Peer,
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
        let channel = tonic::transport::Endpoint::from_static("http://localhost")
            .connect_timeout(connect)
            // A pull and a stop can take long without a byte: whether the engine still lives is
            // asked beside them.
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .connect_with_connector_lazy(connector);
        Self { channel, endpoint, requests: Arc::default(), peer }
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

    /// The calls about sandboxes and containers.
    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(LONGEST_ANSWER)
    }

    /// The calls about images.
    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(LONGEST_ANSWER)
    }

    /// Waits for the answer to a call, but no longer than `deadline`.
    pub(crate) async fn answer<T>(
        &self,
        operation: Operation,
        deadline: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                Err(from_status(operation, &self.endpoint, status).during(operation).on(BACKEND))
            }
            Err(_) => Err(too_late(operation, deadline)),
        }
    }
}

/// The error for an answer that does not come.
pub(crate) fn too_late(operation: Operation, deadline: Duration) -> Error {
    Error::new(ErrorKind::Timeout)
        .with_message(format!("the engine has not answered within {deadline:?}"))
        .during(operation)
        .on(BACKEND)
}
