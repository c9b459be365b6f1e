//! Timeouts of requests.
//!
//! A server can vanish, freeze, or be behind a load balancer that has evicted the connection: the
//! request then has no response and no error. Each request has a timeout of its own, because the
//! requests of background tasks have no deadline of a caller. A timeout discards the pooled
//! connections.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use http::Method;
use http_body_util::BodyExt as _;
use runtime_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::{ApiRequest, Client, Length};
use crate::client::transport::connections::Connections;
use crate::error;

/// Default timeout of a request that only reads.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout of a request that changes an object. API servers end a request after 60 s
/// (`--request-timeout`), and admission webhooks may use most of that.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(65);

/// Timeout of opening a watch. A server sends the response head before the first change.
const WATCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of opening a session. An API server tries for 30 s to reach a node.
pub(super) const SESSION_TIMEOUT: Duration = Duration::from_secs(40);

/// Maximum silence of a log that is not followed, or that is followed over a connection which is
/// not pinged. The follower is then reopened at its position.
pub(super) const LOG_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Maximum delay before a read without a response is sent again over a new connection.
const RESEND_AFTER: Duration = Duration::from_secs(5);

/// A request that is dropped after this time without a response also discards the pooled
/// connections, because a deadline of its caller may have passed.
const SUSPECT_AFTER: Duration = Duration::from_secs(2);

impl Client {
    /// Returns the timeout of a request.
    pub(super) fn timeout_of(&self, call: &ApiRequest) -> Duration {
        if call.method == Method::GET { self.read_timeout } else { CHANGE_TIMEOUT }
    }

    /// Returns the timeout of opening a watch.
    pub(super) fn watch_timeout(&self) -> Duration {
        self.read_timeout.min(WATCH_TIMEOUT)
    }

    /// Runs `work`, which waits for one response, with the timeout `limit`. A timeout discards the
    /// pooled connections.
    pub(super) async fn with_timeout<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut waiting =
            Waiting { connections: &self.connections, since: Instant::now(), is_over: false };
        let done = tokio::time::timeout(limit, Box::pin(work)).await;
        if done.is_err() {
            self.connections.discard();
        }
        waiting.is_over = true;
        done.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout)
                .with_message(format!("the API server has not responded within {limit:?}")))
        })
    }

    /// Sends a request and returns the whole body of the response.
    ///
    /// A read without a response is sent a second time over a new connection, which may lead to
    /// another server, while the first request is still pending. The first response is returned.
    pub(crate) async fn bytes(&self, call: ApiRequest) -> Result<Bytes> {
        let limit = self.timeout_of(&call);
        self.with_timeout(limit, async {
            if call.method != Method::GET {
                return self.whole(&call).await;
            }
            let mut first = self.whole(&call);
            let resend_after = RESEND_AFTER.min(limit / 3);
            if let Ok(done) = tokio::time::timeout(resend_after, &mut first).await {
                return done;
            }
            self.connections.discard();
            let second = self.whole(&call);
            match select(first, second).await {
                // The other request may still succeed.
                Either::Left((Err(error), second)) if error.is_retryable() => second.await,
                Either::Right((Err(error), first)) if error.is_retryable() => first.await,
                Either::Left((done, _)) | Either::Right((done, _)) => done,
            }
        })
        .await
    }

    /// Sends a request and reads the body. The future is boxed, because two of them would make the
    /// futures of all callers large.
    fn whole<'a>(&'a self, call: &'a ApiRequest) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let response = self.open(call.clone(), Length::Short).await?;
            let body = response.into_body().collect().await.map_err(|source| {
                self.connections.lost();
                error::from_client(source)
            })?;
            Ok(body.to_bytes())
        })
    }
}

/// Discards the pooled connections if a request is dropped before its response.
struct Waiting<'a> {
    connections: &'a Connections,
    since: Instant,
    is_over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.since.elapsed() >= SUSPECT_AFTER {
            self.connections.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;
    use spdy_client::remote_command::Streams;

    use crate::client::tests::{Answer, slow, whole};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[tokio::test(start_paused = true)]
    async fn request_without_response_times_out() {
        let silent = slow(|_, _| std::future::pending::<(u16, Answer)>());
        let client = &silent;
        let ends = async |what: &str, request: &mut (dyn Future<Output = ErrorKind> + Unpin)| {
            let begun = Instant::now();
            let ended = tokio::time::timeout(DAY, request).await;
            assert_eq!(ended, Ok(ErrorKind::Timeout), "{what}");
            assert!(begun.elapsed() <= CHANGE_TIMEOUT, "{what}: {:?}", begun.elapsed());
        };
        macro_rules! ends {
            ($($request:expr;)*) => {$(
                let request = async { $request.await.map(drop).unwrap_err().kind() };
                ends(stringify!($request), &mut Box::pin(request)).await;
            )*};
        }
        ends! {
            client.version();
            client.has_metrics("a=b");
            client.pod("p");
            client.list_pods("a=b");
            client.watch_pods("a=b", "1");
            client.create("/api/v1", "secrets", &json!({}));
            client.patch_pod("p", &[]);
            client.delete_pod("p", "u", 0);
            client.delete("/api/v1", "secrets", "s");
            client.node("n");
            client.open_log("p", &[]);
            client.session("p", "exec", &[], Streams::outputs());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_reads_are_resent_without_response() {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let client = slow(move |_, _| {
            let first = count.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                (200, whole("{}"))
            }
        });
        let begun = Instant::now();
        client.pod("p").await.unwrap();
        assert_eq!((begun.elapsed(), sent.swap(0, Ordering::Relaxed)), (RESEND_AFTER, 2));
        client.delete_pod("p", "u", 0).await.unwrap_err();
        assert_eq!(sent.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn request_without_response_discards_pools() {
        let client = slow(|_, _| std::future::pending::<(u16, Answer)>());
        let generation = client.connections.clients().unwrap().generation;
        let before = generation.current();
        // A caller whose deadline is shorter than the timeout of the request.
        let hasty = tokio::time::timeout(SUSPECT_AFTER, client.node("n"));
        hasty.await.unwrap_err();
        assert!(generation.current() > before);
        let before = generation.current();
        client.delete_pod("p", "u", 0).await.unwrap_err();
        assert!(generation.current() > before);
    }
}
