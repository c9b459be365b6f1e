//! How long the client waits for an answer, and what becomes of the connections if none arrives.
//!
//! A server can vanish, freeze, or sit behind a balancer that has forgotten the connection: the
//! request then has no answer and no error. Each request has a limit of its own, because the requests
//! of background tasks have no caller whose deadline would end them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use http::Method;
use http_body_util::BodyExt as _;
use runtime_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::{Call, Client, Length};
use crate::client::transport::connections::Link;
use crate::error;

/// The limit of a request that only reads, unless the client has another.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(30);

/// The limit of a request that changes something. API servers end a request after 60 s
/// (`--request-timeout`), and admission webhooks may use most of that.
const CHANGE_LIMIT: Duration = Duration::from_secs(65);

/// The limit of opening a watch, which a server answers before it has anything to report.
const WATCH_LIMIT: Duration = Duration::from_secs(10);

/// The limit of opening a session. An API server tries for 30 s to reach a node.
pub(super) const SESSION_LIMIT: Duration = Duration::from_secs(40);

/// The longest silence of a log that is not followed, or that is followed over a connection which is
/// not pinged. Such a follower is opened again where it was.
pub(super) const LOG_SILENCE: Duration = Duration::from_secs(60);

/// When a read without an answer is sent again over a new connection, at the latest.
const RESEND_AFTER: Duration = Duration::from_secs(5);

/// A request that was dropped without an answer after this time counts as a sign that the server is
/// gone. It may have been dropped by a deadline of its caller.
const SUSPICION: Duration = Duration::from_secs(2);

impl Client {
    /// Returns the limit of a request.
    pub(super) fn limit_of(&self, call: &Call) -> Duration {
        if call.method == Method::GET { self.read_limit } else { CHANGE_LIMIT }
    }

    /// Returns the limit of opening a watch.
    pub(super) fn watch_limit(&self) -> Duration {
        self.read_limit.min(WATCH_LIMIT)
    }

    /// Runs `work`, which waits for one answer, within `limit`. If there is no answer, the pooled
    /// connections are discarded.
    pub(super) async fn answered<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut waiting = Waiting { link: &self.link, since: Instant::now(), is_over: false };
        let done = tokio::time::timeout(limit, Box::pin(work)).await;
        if done.is_err() {
            self.link.discard();
        }
        waiting.is_over = true;
        done.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout)
                .with_message(format!("the API server has not answered within {limit:?}")))
        })
    }

    /// Sends a request and returns the whole body of the answer.
    ///
    /// A read that has no answer for long is sent a second time over a new connection, which may lead
    /// to another server, while the first one still waits. The first answer counts.
    pub(crate) async fn bytes(&self, call: Call) -> Result<Bytes> {
        let limit = self.limit_of(&call);
        self.answered(limit, async {
            if call.method != Method::GET {
                return self.whole(&call).await;
            }
            let mut first = self.whole(&call);
            let resend_after = RESEND_AFTER.min(limit / 3);
            if let Ok(done) = tokio::time::timeout(resend_after, &mut first).await {
                return done;
            }
            self.link.discard();
            let second = self.whole(&call);
            match select(first, second).await {
                // The other one may still reach a server.
                Either::Left((Err(error), second)) if error.is_retryable() => second.await,
                Either::Right((Err(error), first)) if error.is_retryable() => first.await,
                Either::Left((done, _)) | Either::Right((done, _)) => done,
            }
        })
        .await
    }

    /// Boxed, because a future that holds two of these, and all that wait for it, would be large.
    fn whole<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let answer = self.open(call.clone(), Length::Short).await?;
            let body = answer.into_body().collect().await.map_err(|source| {
                self.link.lost();
                error::from_client(source)
            })?;
            Ok(body.to_bytes())
        })
    }
}

/// Discards the pooled connections if a request is dropped while it waits for its answer.
struct Waiting<'a> {
    link: &'a Link,
    since: Instant,
    is_over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.since.elapsed() >= SUSPICION {
            self.link.discard();
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
    async fn request_without_answer_ends_at_its_limit() {
        let silent = slow(|_, _| std::future::pending::<(u16, Answer)>());
        let client = &silent;
        let ends = async |what: &str, request: &mut (dyn Future<Output = ErrorKind> + Unpin)| {
            let begun = Instant::now();
            let ended = tokio::time::timeout(DAY, request).await;
            assert_eq!(ended, Ok(ErrorKind::Timeout), "{what}");
            assert!(begun.elapsed() <= CHANGE_LIMIT, "{what}: {:?}", begun.elapsed());
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
    async fn read_without_answer_is_sent_again_and_a_change_is_not() {
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
    async fn request_without_answer_discards_the_pools() {
        let client = slow(|_, _| std::future::pending::<(u16, Answer)>());
        let generation = client.link.clients().unwrap().generation;
        let before = generation.current();
        // A caller whose deadline is shorter than the limit of the request.
        let hasty = tokio::time::timeout(SUSPICION, client.node("n"));
        hasty.await.unwrap_err();
        assert!(generation.current() > before);
        let before = generation.current();
        client.delete_pod("p", "u", 0).await.unwrap_err();
        assert!(generation.current() > before);
    }
}
