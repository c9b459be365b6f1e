//! Credentials of requests.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use kube::client::Body;
use runtime_core::{Error, Result};
use tower_service::Service;

use super::plugin::Plugin;
use super::schema::bad;
use crate::client::authorization::bearer;

/// How long a token from a file is used before the file is read again. client-go has the same.
const REREAD_INTERVAL: Duration = Duration::from_secs(50);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The credentials of a user. Clones share the token of a file or a plugin.
#[derive(Clone)]
pub(crate) struct Credentials(Arc<Kind>);

pub(super) enum Kind {
    None,
    Fixed(HeaderValue),
    File(TokenFile),
    Plugin(Box<Plugin>),
}

/// The credentials that a request was sent with.
enum Used {
    Unchanging,
    Read(HeaderValue),
    Run(u64),
}

impl Credentials {
    pub(super) fn new(kind: Kind) -> Self {
        Self(Arc::new(kind))
    }

    /// Reads the file or runs the plugin that has the credentials.
    ///
    /// # Errors
    /// `InvalidArgument` if a plugin is missing; `Unauthenticated` if it fails.
    pub(crate) async fn prepare(&self) -> Result<()> {
        self.header().await.map(drop)
    }

    /// Returns whether the credentials may have changed after a response with 401.
    fn can_change(&self) -> bool {
        matches!(&*self.0, Kind::File(_) | Kind::Plugin(_))
    }

    async fn header(&self) -> Result<(Option<HeaderValue>, Used)> {
        Ok(match &*self.0 {
            Kind::None => (None, Used::Unchanging),
            Kind::Fixed(header) => (Some(header.clone()), Used::Unchanging),
            Kind::File(file) => {
                let header = file.header(false).await?;
                (Some(header.clone()), Used::Read(header))
            }
            Kind::Plugin(plugin) => {
                let current = plugin.current().await?;
                (current.header, Used::Run(current.run))
            }
        })
    }

    /// Returns whether there are other credentials than those that were refused.
    async fn renew(&self, used: Used) -> bool {
        match (&*self.0, used) {
            (Kind::File(file), Used::Read(before)) => {
                file.header(true).await.is_ok_and(|now| now != before)
            }
            (Kind::Plugin(plugin), Used::Run(run)) => plugin.renew(run).await,
            _ => false,
        }
    }
}

#[cfg(test)]
impl Credentials {
    /// Makes the next request read a token file again.
    pub(crate) fn expire(&self) {
        if let Kind::File(file) = &*self.0 {
            file.expire();
        }
    }
}

/// A token in a file that may be replaced at any time.
pub(super) struct TokenFile {
    path: PathBuf,
    last: Mutex<Last>,
}

struct Last {
    read: Instant,
    header: HeaderValue,
}

impl TokenFile {
    /// Reads the file for the first time. `fallback` is used until the file can be read.
    pub(super) fn read(path: PathBuf, fallback: Option<HeaderValue>) -> Result<Self> {
        let header = match (read_token(&path), fallback) {
            (Ok(header), _) | (Err(_), Some(header)) => header,
            (Err(error), None) => return Err(error),
        };
        Ok(Self { path, last: Mutex::new(Last { read: Instant::now(), header }) })
    }

    /// Returns the token. One that cannot be read again stays as it was.
    async fn header(&self, is_refused: bool) -> Result<HeaderValue> {
        let is_due = {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            is_refused || last.read.elapsed() >= REREAD_INTERVAL
        };
        if is_due {
            let path = self.path.clone();
            let read = tokio::task::spawn_blocking(move || read_token(&path))
                .await
                .map_err(|source| Error::internal("failed to read a token").with_source(source))?;
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.read = Instant::now();
            match read {
                Ok(header) => last.header = header,
                Err(error) => tracing::warn!(%error, "the last token is kept"),
            }
        }
        Ok(self.last.lock().unwrap_or_else(PoisonError::into_inner).header.clone())
    }

    #[cfg(test)]
    fn expire(&self) {
        self.last.lock().unwrap().read -= REREAD_INTERVAL;
    }
}

fn read_token(path: &std::path::Path) -> Result<HeaderValue> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        bad(format!("failed to read tokenFile {}: {source}", path.display())).with_source(source)
    })?;
    let token = text.trim();
    if token.is_empty() {
        return Err(bad(format!("tokenFile {} is empty", path.display())));
    }
    bearer(token).map_err(|_| bad(format!("tokenFile {} holds no token", path.display())))
}

/// Adds credentials to the requests of a service.
///
/// A request that is refused with 401 is repeated once if there are other credentials by then.
#[derive(Clone)]
pub(crate) struct Authorized<S> {
    service: S,
    credentials: Credentials,
}

impl<S> Authorized<S> {
    pub(crate) fn new(service: S, credentials: Credentials) -> Self {
        Self { service, credentials }
    }
}

impl<S, B> Service<Request<Body>> for Authorized<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Send,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, std::result::Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        self.service.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let next = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, next);
        let credentials = self.credentials.clone();
        Box::pin(async move {
            let again = if credentials.can_change() { copy(&request) } else { None };
            let (header, used) = credentials.header().await?;
            authorize(&mut request, header);
            let response = service.call(request).await.map_err(Into::into)?;
            let Some(mut again) = again else { return Ok(response) };
            if response.status() != StatusCode::UNAUTHORIZED || !credentials.renew(used).await {
                return Ok(response);
            }
            drop(response);
            let (header, _) = credentials.header().await?;
            authorize(&mut again, header);
            std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
            service.call(again).await.map_err(Into::into)
        })
    }
}

fn authorize(request: &mut Request<Body>, header: Option<HeaderValue>) {
    if let Some(header) = header {
        request.headers_mut().insert(AUTHORIZATION, header);
    }
}

/// Copies a request whose body is not a stream.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    let mut copy = Request::new(request.body().try_clone()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}
