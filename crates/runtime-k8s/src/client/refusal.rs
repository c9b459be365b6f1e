//! Responses that refuse a request.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use runtime_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::{ApiRequest, Client, VERSION_PATH};
use crate::error;

/// Path of the readiness of a server. A ready server has read its roles and bindings.
const READY_PATH: &str = "/readyz";

/// How long a restarted server may refuse rights, because it serves requests before it has read the
/// roles. On 1.20 this takes about a second.
const STARTUP_LIMIT: Duration = Duration::from_secs(30);

/// Maximum delay that a server may require. A longer one is returned to the caller as an error.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// The last refusal of a server that throttles this client.
#[derive(Debug, Clone, Default)]
pub(super) struct Throttled(Arc<Mutex<Option<(Instant, Error)>>>);

impl Throttled {
    fn note(&self, error: &Error) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), error.clone()));
    }

    /// Returns the last refusal if it is not older than `since`.
    pub(super) fn since(&self, since: Instant) -> Option<Error> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| *at >= since).map(|(_, error)| error.clone())
    }
}

/// The refusals of one request so far.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    forbidden: bool,
}

impl Client {
    /// Returns when a refused request can be sent again, after the delay that the server requires.
    ///
    /// # Errors
    /// The refusal, if sending the request again does not help.
    pub(super) async fn refused(
        &self,
        response: Response<Body>,
        attempts: &mut Attempts,
    ) -> Result<()> {
        let status = response.status();
        let after = retry_after(response.headers());
        let error = refusal(response).await;
        match status {
            // A server that throttles has not processed the request. A webhook can use the same
            // code.
            StatusCode::TOO_MANY_REQUESTS if error.kind() == ErrorKind::Unavailable => {
                let error = with_wait(error, after);
                if after.is_some_and(|after| after > RETRY_AFTER_MAX) {
                    return Err(error);
                }
                self.throttled.note(&error);
                tokio::time::sleep(after.unwrap_or_default().max(Duration::from_secs(1))).await;
                Ok(())
            }
            StatusCode::FORBIDDEN => {
                let error = self.unless_starting_up(error).await;
                // The server may have become ready in the meantime.
                let again = error.kind() == ErrorKind::PermissionDenied
                    && is_of_authorizer(&error)
                    && self.connections.was_lost(STARTUP_LIMIT)
                    && !std::mem::replace(&mut attempts.forbidden, true);
                if again { Ok(()) } else { Err(error) }
            }
            _ => Err(error),
        }
    }

    /// Returns the error for a response that refuses.
    pub(super) async fn refusal(&self, response: Response<Body>) -> Error {
        let status = response.status();
        let error = refusal(response).await;
        if status == StatusCode::FORBIDDEN { self.unless_starting_up(error).await } else { error }
    }

    /// Returns the error, or `Unavailable` if the right is probably missing only because the server
    /// has just started.
    async fn unless_starting_up(&self, error: Error) -> Error {
        if !is_of_authorizer(&error) || !self.is_starting_up().await {
            return error;
        }
        Error::new(ErrorKind::Unavailable)
            .with_message("the API server has just started and has not read the roles yet")
            .with_source(error)
    }

    /// Returns whether the server is not ready yet: it reports so, or it refuses requests of this
    /// caller that it has accepted before.
    async fn is_starting_up(&self) -> bool {
        match self.status_of(READY_PATH).await {
            Some(status) if status.is_server_error() => true,
            Some(StatusCode::FORBIDDEN) => {
                self.knows_version.load(Ordering::Relaxed)
                    && self.status_of(VERSION_PATH).await == Some(StatusCode::FORBIDDEN)
            }
            _ => false,
        }
    }

    async fn status_of(&self, path: &str) -> Option<StatusCode> {
        let request = ApiRequest::get(path).request().ok()?;
        self.send(request).await.ok().map(|response| response.status())
    }

    /// Returns the refusal of a server that throttles this client, if there was one since then.
    pub(crate) fn throttled_since(&self, since: Instant) -> Option<Error> {
        self.throttled.since(since)
    }
}

/// Returns whether the error is one of the authorizer. A refusal of the admission chain is
/// permanent.
fn is_of_authorizer(error: &Error) -> bool {
    error.message().is_some_and(|message| {
        message.starts_with("the right to ") || error::is_missing_right(message)
    })
}

/// Returns the delay that a server requires, in seconds. API servers do not use dates.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Adds the delay that a server requires to the error, unless its message already has it.
fn with_wait(error: Error, after: Option<Duration>) -> Error {
    let message = error.message().unwrap_or_default().to_owned();
    match after {
        Some(after) if !message.contains("retry after") => {
            error.with_message(format!("{message} (retry after {} s)", after.as_secs()))
        }
        _ => error,
    }
}

/// Returns the error for a response that refuses.
async fn refusal(response: Response<Body>) -> Error {
    let (head, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => error::from_response(head.status, &body.to_bytes()),
        Err(source) => error::from_client(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::AtomicUsize;

    use crate::client::tests::of;

    const RIGHT: &str = r#"{"kind": "Status", "code": 403, "reason": "Forbidden",
        "message": "pods is forbidden: User \"u\" cannot list resource \"pods\" in API group \"\" in the namespace \"x\""}"#;
    const QUOTA: &str = r#"{"kind": "Status", "code": 403, "reason": "Forbidden",
        "message": "pods \"a\" is forbidden: failed quota: q: must specify limits.memory"}"#;

    #[tokio::test(start_paused = true)]
    async fn forbidden_after_lost_connection_is_checked_with_server() {
        for (message, ready, kind) in [
            (RIGHT, (200, "ok"), ErrorKind::PermissionDenied),
            (RIGHT, (404, ""), ErrorKind::PermissionDenied),
            (RIGHT, (500, "informer-sync failed"), ErrorKind::Unavailable),
            // This caller may never read it.
            (RIGHT, (403, ""), ErrorKind::PermissionDenied),
            (QUOTA, (500, ""), ErrorKind::InvalidArgument),
            (QUOTA, (200, ""), ErrorKind::InvalidArgument),
        ] {
            let client = of(move |_, uri| match uri {
                "/readyz" => ready,
                "/version" => (200, r#"{"gitVersion": "v1.20.2"}"#),
                _ => (403, message),
            });
            client.version().await.unwrap();
            client.connections.lost();
            let error = client.list_pods("a=b").await.unwrap_err();
            assert_eq!(error.kind(), kind, "{message} {ready:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_is_retried_when_server_becomes_ready() {
        let lists = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lists);
        let client = of(move |_, uri| match uri {
            "/readyz" => (200, "ok"),
            _ if count.fetch_add(1, Ordering::Relaxed) == 0 => (403, RIGHT),
            _ => (200, r#"{"items": []}"#),
        });
        client.connections.lost();
        assert!(client.list_pods("a=b").await.is_ok());
        assert_eq!(lists.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_request_is_retried_and_error_is_kept() {
        const BUSY: &str = r#"{"kind": "Status", "code": 429, "reason": "TooManyRequests",
            "message": "too many requests, please try again later", "details": {"retryAfterSeconds": 2}}"#;
        let begun = Instant::now();
        let client = of(|_, _| (429, BUSY));
        let asked = tokio::time::timeout(Duration::from_secs(20), client.list_pods("a=b")).await;
        assert!(asked.is_err(), "too many requests");
        let error = client.throttled_since(begun).expect("the request was refused");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let message = error.message().unwrap();
        assert_eq!(message, "too many requests, please try again later (retry after 2 s)");
        assert!(client.throttled_since(Instant::now() + Duration::from_secs(1)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn webhook_denial_with_429_is_policy() {
        let client = of(|_, _| {
            (
                429,
                r#"{"kind": "Status", "code": 429, "reason": "TooManyRequests",
                    "message": "admission webhook \"slow.example.com\" denied the request: no"}"#,
            )
        });
        let error = client.list_pods("a=b").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn retry_after_header_is_parsed() {
        let with = |value: &'static str| {
            HeaderMap::from_iter([(RETRY_AFTER, http::HeaderValue::from_static(value))])
        };
        assert_eq!(retry_after(&with("5")), Some(Duration::from_secs(5)));
        assert_eq!(retry_after(&with("Sun, 06 Nov 1994 08:49:37 GMT")), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
