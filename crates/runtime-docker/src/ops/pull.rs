//! Pulling images.

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
use crate::client::http::Call;
use crate::error::{self, BACKEND};
use crate::model::progress::{Lines, Progress};
use crate::state::DockerBackend;

/// Pulls `image` by `policy`. What can be refused at once is refused here; the rest is the stream's
/// last item.
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
            let why = if image.is_id() {
                "the engine has no image of this id, and an id cannot be pulled"
            } else {
                "the engine does not have it, and it is not to be pulled"
            };
            return Err(failure(image, ErrorKind::ImageNotFound, why));
        }
    }
    let silence = backend.deadlines().pull_inactivity;
    let tool = if backend.engine.is_podman() { LoginsOf::Podman } else { LoginsOf::Docker };
    let login = find_credential(image, auth.cloned(), tool);
    let login = found_in_time(image, silence, login).await?;
    let mut call = Call::post(Operation::Pull, "/images/create")
        .query("fromImage", image.name())
        // Without a tag the engine would pull every tag there is.
        .query("tag", image.digest().or(image.tag()).unwrap_or("latest"));
    if let Some(header) = login.as_ref().map(header).transpose()?.flatten() {
        call = call.header(HeaderName::from_static("x-registry-auth"), header);
    }
    // Docker answers only when the registry has told it the manifest.
    let answer = within(Operation::Pull, silence, backend.http.send(call)).await.about(image)?;
    let status = answer.status();
    if status.is_client_error() || status.is_server_error() {
        let body = backend.http.whole(Operation::Pull, answer).await.unwrap_or_default();
        let message = error::message(&body);
        return Err(refused(image, status.as_u16(), &message, login.is_some()));
    }
    let body = backend.http.stream(Operation::Pull, answer);
    Ok(Box::pin(events(Arc::clone(backend), image.clone(), body, login.is_some())))
}

/// The login that is looked up, if that comes to an end: a credential helper may hang.
async fn found_in_time(
    image: &ImageRef,
    silence: Duration,
    login: impl Future<Output = Option<Credential>>,
) -> Result<Option<Credential>> {
    tokio::time::timeout(silence, login).await.map_err(|_| {
        let why = format!("the credential helper has not answered within {silence:?}");
        failure(image, ErrorKind::Timeout, why)
    })
}

/// Pulls `image`, whether it is there or not, to the end.
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

/// What the engine has under this name.
pub(crate) async fn find(backend: &DockerBackend, image: &ImageRef) -> Result<Option<PullSummary>> {
    // The characters of a reference need no encoding but the brackets of an IPv6 address.
    let name = image.to_string().replace('[', "%5B").replace(']', "%5D");
    let call = Call::get(Operation::Pull, format!("/images/{name}/json"));
    match backend.query::<Inspect>(Operation::Pull, call).await {
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
        // An image may be known by digests of several repositories. Docker leaves
        // `docker.io/library/` out of them.
        summary.resolved = self
            .repo_digests
            .into_iter()
            .flatten()
            .filter_map(|digest| ImageRef::parse(&digest).ok())
            .find(|digest| digest.name() == name)
            .map(|digest| digest.to_string());
        // Podman gives the id without the algorithm in some answers.
        let id = self.id;
        summary.id = Some(if id.contains(':') { id } else { format!("sha256:{id}") });
        summary
    }
}

/// What the registry is shown, as the engine takes it.
fn header(login: &Credential) -> Result<Option<HeaderValue>> {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Shown<'a> {
        Login { username: &'a str, password: &'a str, serveraddress: Option<&'a str> },
        IdentityToken { identitytoken: &'a str },
        RegistryToken { registrytoken: &'a str },
    }
    let shown = match login {
        Credential::Login(auth) => Shown::Login {
            username: &auth.username,
            password: auth.password(),
            serveraddress: auth.server_address.as_deref(),
        },
        Credential::IdentityToken(token) => Shown::IdentityToken { identitytoken: token },
        Credential::RegistryToken(token) => Shown::RegistryToken { registrytoken: token },
        _ => return Ok(None),
    };
    let json = serde_json::to_vec(&shown)
        .map_err(|_| Error::internal("the login is no JSON").during(Operation::Pull))?;
    let mut value = HeaderValue::from_str(&URL_SAFE.encode(json))
        .map_err(|_| Error::internal("the login is no header").during(Operation::Pull))?;
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
                // The engine says nothing of success. The image that is there says it.
                return match find(&self.backend, &self.image).await? {
                    Some(summary) => Ok(PullEvent::Done(summary)),
                    None => Err(failure(
                        &self.image,
                        ErrorKind::Internal,
                        "the engine ended the pull and does not have the image",
                    )),
                };
            }
            let silence = self.backend.deadlines().pull_inactivity;
            let Ok(bytes) = tokio::time::timeout(silence, self.body.next()).await else {
                let why = format!("the engine has said nothing for {silence:?}");
                return Err(failure(&self.image, ErrorKind::Timeout, why));
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
                            "the engine's answer has a line without end",
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

fn failure(image: &ImageRef, kind: ErrorKind, why: impl Into<String>) -> Error {
    Error::new(kind).with_message(why).during(Operation::Pull).on(BACKEND).about(image)
}

/// What the engine says of a pull that failed.
fn refused(image: &ImageRef, status: u16, message: &str, has_login: bool) -> Error {
    if has_login && error::hides_the_image(message) {
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
    fn with_a_login_a_hidden_image_is_not_there() {
        let hidden = "pull access denied for a, repository does not exist or may require login";
        assert_eq!(refused(&image(), 404, hidden, true).kind(), ErrorKind::ImageNotFound);
        assert_eq!(refused(&image(), 404, hidden, false).kind(), ErrorKind::Unauthenticated);
        let wrong = "unauthorized: authentication required";
        assert_eq!(refused(&image(), 500, wrong, true).kind(), ErrorKind::Unauthenticated);
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_is_not_waited_for_without_end() {
        let silence = Duration::from_secs(120);
        let late = found_in_time(&image(), silence, std::future::pending()).await.unwrap_err();
        assert_eq!((late.kind(), late.operation()), (ErrorKind::Timeout, Some(Operation::Pull)));
        assert!(late.to_string().contains("credential helper"), "{late}");
        let none = found_in_time(&image(), silence, std::future::ready(None)).await;
        assert_eq!(none.unwrap(), None);
    }
}
