//! Pulls images.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderName, HeaderValue};
use runtime_core::{
    Error, ErrorKind, ImageRef, Operation, PullEvent, PullPolicy, PullStream, PullSummary,
    RegistryAuth, Result, ResultExt,
};
use runtime_support::{Credential, LoginsOf, find_credential};
use serde::{Deserialize, Serialize};

use crate::client::deadline::within;
use crate::client::http::ApiRequest;
use crate::error::{self, BACKEND};
use crate::model::progress::{Lines, Progress};
use crate::state::DockerBackend;

/// Begins to pull `image` by `policy`. Errors before the first event are returned here, later ones
/// are the last item of the stream.
pub(crate) async fn open(
    backend: &Arc<DockerBackend>,
    image: &ImageRef,
    auth: Option<&RegistryAuth>,
    policy: PullPolicy,
) -> Result<PullStream> {
    if policy != PullPolicy::Always || image.is_id() {
        if let Some(summary) = find(backend, image).await? {
            let present = [PullEvent::AlreadyPresent, PullEvent::Done(summary)];
            return Ok(Box::pin(stream::iter(present.map(Ok))));
        }
        if policy == PullPolicy::Never || image.is_id() {
            let message = if image.is_id() {
                "no image with this id, and an id cannot be pulled"
            } else {
                "the image is not present, and the policy is never to pull"
            };
            return Err(failure(image, ErrorKind::ImageNotFound, message));
        }
    }
    let idle_timeout = backend.deadlines().pull_inactivity;
    let tool = if backend.engine.is_podman() { LoginsOf::Podman } else { LoginsOf::Docker };
    let login = find_credential(image, auth.cloned(), tool);
    let login = within_timeout(image, idle_timeout, login).await?;
    let mut request = ApiRequest::post(Operation::Pull, "/images/create")
        .query("fromImage", image.name())
        // Without a tag the engine would pull all tags.
        .query("tag", image.digest().or(image.tag()).unwrap_or("latest"));
    if let Some(header) = login.as_ref().map(header).transpose()?.flatten() {
        request = request.header(HeaderName::from_static("x-registry-auth"), header);
    }
    // Docker responds after the registry has returned the manifest.
    let response =
        within(Operation::Pull, idle_timeout, backend.http.send(request)).await.about(image)?;
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let body = backend.http.whole(Operation::Pull, response).await.unwrap_or_default();
        let message = error::message(&body);
        return Err(refused(image, status.as_u16(), &message, login.is_some()));
    }
    let body = backend.http.stream(Operation::Pull, response);
    Ok(Box::pin(events(Arc::clone(backend), image.clone(), body, login.is_some())))
}

/// Waits for the credentials within a timeout, because a credential helper may hang.
async fn within_timeout(
    image: &ImageRef,
    idle_timeout: Duration,
    login: impl Future<Output = Option<Credential>>,
) -> Result<Option<Credential>> {
    tokio::time::timeout(idle_timeout, login).await.map_err(|_| {
        let message = format!("the credential helper did not respond within {idle_timeout:?}");
        failure(image, ErrorKind::Timeout, message)
    })
}

/// Pulls `image` to the end, even if it is present.
pub(crate) async fn ensure(
    backend: &Arc<DockerBackend>,
    image: &ImageRef,
    auth: Option<&RegistryAuth>,
) -> Result<()> {
    let mut events = open(backend, image, auth, PullPolicy::Always).await?;
    while let Some(event) = events.next().await {
        event?;
    }
    Ok(())
}

/// Returns the image with this reference, if the engine has it.
pub(crate) async fn find(backend: &DockerBackend, image: &ImageRef) -> Result<Option<PullSummary>> {
    // Only the brackets of an IPv6 address need encoding.
    let name = image.to_string().replace('[', "%5B").replace(']', "%5D");
    let request = ApiRequest::get(Operation::Pull, format!("/images/{name}/json"));
    match backend.query::<Inspect>(Operation::Pull, request).await {
        Ok(found) => Ok(Some(found.summary(image))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ImageNotFound) => {
            Ok(None)
        }
        Err(error) => Err(error.about(image)),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspect {
    id: String,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
}

impl Inspect {
    fn summary(self, image: &ImageRef) -> PullSummary {
        let name = image.name();
        let mut summary = PullSummary::new(image.to_string());
        // An image can have digests of several repositories. Docker omits `docker.io/library/` in
        // them.
        summary.resolved = self
            .repo_digests
            .into_iter()
            .flatten()
            .filter_map(|digest| ImageRef::parse(&digest).ok())
            .find(|digest| digest.name() == name)
            .map(|digest| digest.to_string());
        // Podman omits the algorithm of the id in some responses.
        let id = self.id;
        summary.id = Some(if id.contains(':') { id } else { format!("sha256:{id}") });
        summary
    }
}

/// Returns the credentials as the header `X-Registry-Auth`.
fn header(login: &Credential) -> Result<Option<HeaderValue>> {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum AuthConfig<'a> {
        Login { username: &'a str, password: &'a str, serveraddress: Option<&'a str> },
        IdentityToken { identitytoken: &'a str },
        RegistryToken { registrytoken: &'a str },
    }
    let config = match login {
        Credential::Login(auth) => AuthConfig::Login {
            username: &auth.username,
            password: auth.password(),
            serveraddress: auth.server_address.as_deref(),
        },
        Credential::IdentityToken(token) => AuthConfig::IdentityToken { identitytoken: token },
        Credential::RegistryToken(token) => AuthConfig::RegistryToken { registrytoken: token },
        _ => return Ok(None),
    };
    let json = serde_json::to_vec(&config).map_err(|_| {
        Error::internal("failed to serialize the credentials").during(Operation::Pull)
    })?;
    let mut value = HeaderValue::from_str(&URL_SAFE.encode(json)).map_err(|_| {
        Error::internal("the credentials are not a valid header").during(Operation::Pull)
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

struct Pull<S> {
    backend: Arc<DockerBackend>,
    image: ImageRef,
    body: S,
    lines: Lines,
    progress: Progress,
    ready: VecDeque<PullEvent>,
    has_login: bool,
    ended: bool,
}

fn events(
    backend: Arc<DockerBackend>,
    image: ImageRef,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
    has_login: bool,
) -> impl Stream<Item = Result<PullEvent>> + Send + 'static {
    let pull = Pull {
        backend,
        image,
        body,
        lines: Lines::default(),
        progress: Progress::default(),
        ready: VecDeque::new(),
        has_login,
        ended: false,
    };
    stream::unfold(Some(pull), |pull| async {
        let mut pull = pull?;
        match pull.step().await {
            Ok(event) => {
                let done = matches!(event, PullEvent::Done(_));
                Some((Ok(event), (!done).then_some(pull)))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
}

impl<S: Stream<Item = Result<Bytes>> + Unpin> Pull<S> {
    async fn step(&mut self) -> Result<PullEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if self.ended {
                // The engine does not report success, so the presence of the image is checked.
                return match find(&self.backend, &self.image).await? {
                    Some(summary) => Ok(PullEvent::Done(summary)),
                    None => Err(failure(
                        &self.image,
                        ErrorKind::Internal,
                        "the pull has ended, and the image is not present",
                    )),
                };
            }
            let idle_timeout = self.backend.deadlines().pull_inactivity;
            let Ok(bytes) = tokio::time::timeout(idle_timeout, self.body.next()).await else {
                let message = format!("the engine has sent nothing for {idle_timeout:?}");
                return Err(failure(&self.image, ErrorKind::Timeout, message));
            };
            match bytes {
                Some(bytes) => {
                    self.lines.push(&bytes.about(&self.image)?);
                    while let Some(line) = self.lines.next() {
                        self.take(&line)?;
                    }
                    if self.lines.is_too_long() {
                        return Err(failure(
                            &self.image,
                            ErrorKind::Internal,
                            "a line of the engine's response is too long",
                        ));
                    }
                }
                None => {
                    let rest = self.lines.rest();
                    self.take(&rest)?;
                    self.ready.extend(std::mem::take(&mut self.progress).finish());
                    self.ended = true;
                }
            }
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<()> {
        let events = self
            .progress
            .take(line)
            .map_err(|message| refused(&self.image, 500, &message, self.has_login))?;
        self.ready.extend(events);
        Ok(())
    }
}

fn failure(image: &ImageRef, kind: ErrorKind, message: impl Into<String>) -> Error {
    Error::new(kind).with_message(message).during(Operation::Pull).on(BACKEND).about(image)
}

/// Returns the error of a pull that the engine refused.
fn refused(image: &ImageRef, status: u16, message: &str, has_login: bool) -> Error {
    if has_login && error::is_hidden_image(message) {
        return failure(image, ErrorKind::ImageNotFound, message.trim());
    }
    error::refusal(Operation::Pull, status, message).on(BACKEND).about(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageRef {
        ImageRef::parse("r.example/a:1").unwrap()
    }

    #[test]
    fn hidden_image_with_credentials_is_not_found() {
        let hidden = "pull access denied for a, repository does not exist or may require login";
        assert_eq!(refused(&image(), 404, hidden, true).kind(), ErrorKind::ImageNotFound);
        assert_eq!(refused(&image(), 404, hidden, false).kind(), ErrorKind::Unauthenticated);
        let wrong = "unauthorized: authentication required";
        assert_eq!(refused(&image(), 500, wrong, true).kind(), ErrorKind::Unauthenticated);
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_credential_helper_returns_timeout() {
        let idle_timeout = Duration::from_secs(120);
        let late =
            within_timeout(&image(), idle_timeout, std::future::pending()).await.unwrap_err();
        assert_eq!((late.kind(), late.operation()), (ErrorKind::Timeout, Some(Operation::Pull)));
        assert!(late.to_string().contains("credential helper"), "{late}");
        let none = within_timeout(&image(), idle_timeout, std::future::ready(None)).await;
        assert_eq!(none.unwrap(), None);
    }
}
