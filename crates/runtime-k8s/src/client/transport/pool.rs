//! The pool of HTTP/1.1 connections, which can be discarded as a whole.
//!
//! A server that has vanished leaves dead connections in every pool. Each of them would cost the
//! deadline of the request that finds out, so that the first failure discards all of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::Connect;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use tower_service::Service;

/// How long an idle connection is kept. Load balancers evict idle connections after some tens of
/// seconds, often without a reset.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(25);

/// Generation of pooled connections. Clones share the generation.
///
/// A pool that finds a newer generation than its own drops the connections that it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Generation(Arc<AtomicU64>);

impl Generation {
    /// Invalidates all connections that are pooled now.
    pub(crate) fn discard(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn current(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An HTTP/1.1 client over the connections of `C`.
#[derive(Clone)]
pub(crate) struct Pool<C> {
    connector: C,
    generation: Generation,
    client: Arc<Mutex<(u64, legacy::Client<C, Body>)>>,
}

impl<C> Pool<C>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    pub(crate) fn new(connector: C, generation: Generation) -> Self {
        let client = (generation.current(), build(connector.clone()));
        Self { connector, generation, client: Arc::new(Mutex::new(client)) }
    }

    /// Returns the client of the current generation. Requests in progress keep their connections.
    fn client(&self) -> legacy::Client<C, Body> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.generation.current();
        if client.0 != current {
            *client = (current, build(self.connector.clone()));
        }
        client.1.clone()
    }
}

fn build<C>(connector: C) -> legacy::Client<C, Body>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_LIMIT)
        .build(connector)
}

impl<C> Service<Request<Body>> for Pool<C>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    type Response = Response<Incoming>;
    type Error = legacy::Error;
    type Future = legacy::ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.client().request(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicUsize;

    use http_body_util::BodyExt as _;
    use hyper_util::client::legacy::connect::HttpConnector;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    /// Starts a server that responds only on the connections that it accepted in its current state.
    async fn serve(is_well: watch::Receiver<bool>, taken: Arc<AtomicUsize>) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                taken.fetch_add(1, Ordering::Relaxed);
                let is_well = is_well.clone();
                tokio::spawn(async move {
                    let was_well = *is_well.borrow();
                    let mut head = [0; 1024];
                    while let Ok(1..) = tcp.read(&mut head).await {
                        if was_well != *is_well.borrow() {
                            std::future::pending::<()>().await;
                        }
                        // Long enough for others to need connections of their own.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                            .await
                            .unwrap();
                    }
                });
            }
        });
        format!("http://{address}/")
    }

    #[tokio::test]
    async fn vanished_server_discards_all_connections() {
        let taken = Arc::new(AtomicUsize::new(0));
        // A new value stands for another server at the same address.
        let (server, is_well) = watch::channel(true);
        let uri = serve(is_well, Arc::clone(&taken)).await;
        let generation = Generation::default();
        let pool = Pool::new(HttpConnector::new(), generation.clone());
        let request_once = || {
            let request = Request::get(&uri).body(Body::empty()).unwrap();
            let response = pool.clone().call(request);
            async move {
                response.await?.into_body().collect().await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            }
        };
        let all = futures_util::future::join_all((0..8).map(|_| request_once())).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert_eq!(taken.load(Ordering::Relaxed), 8);
        request_once().await.unwrap();
        assert_eq!(taken.load(Ordering::Relaxed), 8, "connections are reused");
        server.send_replace(false);
        let waited = tokio::time::timeout(Duration::from_millis(300), request_once()).await;
        waited.expect_err("the server has vanished");
        generation.discard();
        request_once().await.unwrap();
        assert_eq!(taken.load(Ordering::Relaxed), 9);
    }
}
