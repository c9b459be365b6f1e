//! Pulling images.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderName, HeaderValue};
use runtime_core::{
    Error, ErrorKind, ImageRef, Operation, PullEvent, PullPolicy, PullStream, PullSummary,
    RegistryAuth, Result, ResultExt,
};
use runtime_support::{Credential, LoginsOf, find_credential};
use serde::{Deserialize, Serialize};

use crate::BACKEND;
use crate::error;
use crate::http::Call;
use crate::shared::{Shared, within};

/// Pulls `image` by `policy`. What can be refused at once is refused here; the rest is the stream's
/// last item.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    image: &ImageRef,
    auth: Option<&RegistryAuth>,
    policy: PullPolicy,
) -> Result<PullStream> {
    if policy != PullPolicy::Always || image.is_id() {
        if let Some(summary) = find(shared, image).await? {
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
    let silence = shared.deadlines.pull_inactivity;
    let tool = if shared.engine.is_podman() { LoginsOf::Podman } else { LoginsOf::Docker };
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
    let answer = within(Operation::Pull, silence, shared.http.send(call)).await.about(image)?;
    let status = answer.status();
    if status.is_client_error() || status.is_server_error() {
        let body = shared.http.whole(Operation::Pull, answer).await.unwrap_or_default();
        let message = error::message(&body);
        return Err(refused(image, status.as_u16(), &message, login.is_some()));
    }
    let body = shared.http.stream(Operation::Pull, answer);
    Ok(Box::pin(events(Arc::clone(shared), image.clone(), body, login.is_some())))
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
    shared: &Arc<Shared>,
    image: &ImageRef,
    auth: Option<&RegistryAuth>,
) -> Result<()> {
    let mut events = open(shared, image, auth, PullPolicy::Always).await?;
    while let Some(event) = events.next().await {
        event?;
    }
    Ok(())
}

/// What the engine has under this name.
pub(crate) async fn find(shared: &Shared, image: &ImageRef) -> Result<Option<PullSummary>> {
    // The characters of a reference need no encoding but the brackets of an IPv6 address.
    let name = image.to_string().replace('[', "%5B").replace(']', "%5D");
    let call = Call::get(Operation::Pull, format!("/images/{name}/json"));
    match shared.query::<Inspect>(Operation::Pull, call).await {
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

/// A line of the answer.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Line {
    id: Option<String>,
    status: Option<String>,
    error: Option<String>,
    progress_detail: Detail,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Detail {
    current: Option<i64>,
    total: Option<i64>,
}

/// The longest line that is believed. The engines' are a few hundred bytes.
const LONGEST_LINE: usize = 1 << 20;

/// Lines of bytes that come in any pieces.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: BytesMut,
    /// How far it was searched for a line end.
    searched: usize,
}

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its end. Podman ends some with `\r\n`.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let at = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(at) = at else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + at + 1).freeze();
        self.searched = 0;
        Some(line.slice(..line.trim_ascii_end().len()))
    }

    /// What is left when no more comes.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.searched = 0;
        self.buffer.split().freeze()
    }

    fn is_too_long(&self) -> bool {
        self.buffer.len() > LONGEST_LINE
    }
}

/// The progress of the layers.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    layers: BTreeMap<String, Layer>,
}

#[derive(Debug, Default)]
struct Layer {
    current: u64,
    total: Option<u64>,
    done: bool,
}

impl Progress {
    /// Takes a line of the answer.
    ///
    /// # Errors
    /// The engine's words when the line says that the pull failed, or that it makes no sense.
    pub(crate) fn take(&mut self, line: &[u8]) -> Result<Vec<PullEvent>, String> {
        if line.is_empty() {
            return Ok(Vec::new());
        }
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            return Err(format!(
                "the engine's answer makes no sense: {:?}",
                String::from_utf8_lossy(&line[..line.len().min(200)])
            ));
        };
        if let Some(error) = line.error {
            return Err(error);
        }
        let Some(status) = line.status else { return Ok(Vec::new()) };
        let Some(id) = line.id else { return Ok(vec![PullEvent::Message { text: status }]) };
        let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        let (current, total) =
            (count(line.progress_detail.current), count(line.progress_detail.total));
        let moved = |layer: &mut Layer, current: u64, total: Option<u64>| {
            layer.total = total.filter(|total| *total > 0).or(layer.total);
            // A download that is tried again begins at 0: the bar waits for it.
            let current = current.min(layer.total.unwrap_or(u64::MAX));
            let news = current > layer.current;
            layer.current = layer.current.max(current);
            news
        };
        let mut events = Vec::new();
        match status.as_str() {
            "Pulling fs layer" | "Waiting" | "Verifying Checksum" => {
                self.layers.entry(id).or_default();
            }
            "Downloading" => {
                let layer = self.layers.entry(id.clone()).or_default();
                if let Some(current) = current
                    && moved(layer, current, total)
                {
                    events.push(PullEvent::Layer {
                        id,
                        current: layer.current,
                        total: layer.total,
                    });
                }
            }
            // Only the bytes that come are counted: extracting them is a second way through.
            "Extracting" | "Download complete" => {
                let layer = self.layers.entry(id.clone()).or_default();
                let whole = total.or(layer.total).unwrap_or(0);
                if moved(layer, whole, total) {
                    events.push(PullEvent::Layer {
                        id,
                        current: layer.current,
                        total: layer.total,
                    });
                }
            }
            "Pull complete" | "Already exists" => {
                let layer = self.layers.entry(id.clone()).or_default();
                if !std::mem::replace(&mut layer.done, true) {
                    events.push(PullEvent::LayerDone { id });
                }
            }
            _ => events.push(PullEvent::Message { text: format!("{id}: {status}") }),
        }
        Ok(events)
    }

    /// The layers that nobody said were done. Podman never says it.
    pub(crate) fn finish(self) -> impl Iterator<Item = PullEvent> {
        self.layers
            .into_iter()
            .filter(|(_, layer)| !layer.done)
            .map(|(id, _)| PullEvent::LayerDone { id })
    }
}

struct Pull<S> {
    shared: Arc<Shared>,
    image: ImageRef,
    body: S,
    lines: Lines,
    progress: Progress,
    ready: VecDeque<PullEvent>,
    has_login: bool,
    ended: bool,
}

fn events(
    shared: Arc<Shared>,
    image: ImageRef,
    body: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
    has_login: bool,
) -> impl Stream<Item = Result<PullEvent>> + Send + 'static {
    let pull = Pull {
        shared,
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
                return match find(&self.shared, &self.image).await? {
                    Some(summary) => Ok(PullEvent::Done(summary)),
                    None => Err(failure(
                        &self.image,
                        ErrorKind::Internal,
                        "the engine ended the pull and does not have the image",
                    )),
                };
            }
            let silence = self.shared.deadlines.pull_inactivity;
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

    fn take_all(lines: &[&str]) -> Vec<PullEvent> {
        let mut progress = Progress::default();
        let mut events: Vec<_> =
            lines.iter().flat_map(|line| progress.take(line.as_bytes()).unwrap()).collect();
        events.extend(progress.finish());
        events
    }

    #[test]
    fn the_bytes_of_a_layer_only_grow_and_end_at_the_total() {
        let events = take_all(&[
            r#"{"status":"Pulling from a","id":"1"}"#,
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":5,"total":9},"id":"l"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":2,"total":9},"id":"l"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Extracting","progressDetail":{"current":1,"total":9},"id":"l"}"#,
            r#"{"status":"Pull complete","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Digest: sha256:0"}"#,
        ]);
        let layer = |current| PullEvent::Layer { id: "l".into(), current, total: Some(9) };
        assert_eq!(
            events,
            [
                PullEvent::Message { text: "1: Pulling from a".into() },
                layer(5),
                layer(9),
                PullEvent::LayerDone { id: "l".into() },
                PullEvent::Message { text: "Digest: sha256:0".into() },
            ]
        );
    }

    #[test]
    fn podman_never_says_that_a_layer_is_done() {
        let events = take_all(&[
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"l"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"l"}"#,
        ]);
        assert_eq!(events, [PullEvent::LayerDone { id: "l".into() }]);
    }

    #[test]
    fn a_failure_in_the_middle_is_one() {
        let mut progress = Progress::default();
        let said = progress.take(br#"{"errorDetail":{"message":"x"},"error":"x"}"#);
        assert_eq!(said, Err("x".to_owned()));
        assert!(progress.take(b"<html>").is_err());
    }

    proptest::proptest! {
        #[test]
        fn lines_are_the_same_in_whatever_pieces(
            text in "[ab\r\n]{0,60}", cuts in proptest::collection::vec(0_usize..60, 0..8)
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let mut lines = Lines::default();
            let (mut got, mut from) = (Vec::new(), 0);
            for cut in cuts {
                lines.push(&text.as_bytes()[from..cut]);
                got.extend(std::iter::from_fn(|| lines.next()));
                from = cut;
            }
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let expected: Vec<_> = if text.contains('\n') {
                whole.split('\n').map(|line| line.trim_ascii_end().as_bytes().to_vec()).collect()
            } else {
                Vec::new()
            };
            proptest::prop_assert_eq!(got.iter().map(|l| l.to_vec()).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Progress::default().take(&line);
        }
    }
}
