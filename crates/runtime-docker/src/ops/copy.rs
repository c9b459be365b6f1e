//! Files into containers and out of them: the engine's archives as they stream.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::Method;
use runtime_core::{
    Backoff, ByteStream, ContainerStatus, Error, ErrorKind, Operation, Result, ResultExt,
};
use runtime_support::TarEnd;
use runtime_support::backend::Handle;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::deadline::within;
use crate::client::http::Call;
use crate::error::BACKEND;
use crate::state::{DockerBackend, DockerContainer};

/// How often it is asked whether the files of an ended container are unmounted.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// How many archives of Podman may fail or be empty before one is taken as it is: one that the end
/// of the container cut off, and one that failed beside the clean-up.
const PODMAN_ARCHIVES: usize = 2;
/// The bit of a folder in the modes of Go.
const FOLDER: u32 = 1 << 31;
/// The bit of a symbolic link in the modes of Go.
const LINK: u32 = 1 << 27;

/// Unpacks a tar stream into the directory `path`.
pub(crate) async fn copy_in(
    backend: &Arc<DockerBackend>,
    container: &DockerContainer,
    path: &str,
    content: ByteStream,
) -> Result<()> {
    Files { backend, container }.unpack(path, content).await
}

/// Packs the file or directory `path` into a tar stream.
pub(crate) async fn copy_out(
    backend: &Arc<DockerBackend>,
    container: &DockerContainer,
    path: &str,
) -> Result<ByteStream> {
    Files { backend, container }.pack(path).await
}

/// The files of a container.
struct Files<'a> {
    backend: &'a Arc<DockerBackend>,
    container: &'a DockerContainer,
}

impl Files<'_> {
    /// Unpacks a tar stream into the folder `path`.
    async fn unpack(&self, path: &str, content: ByteStream) -> Result<()> {
        const COPY_IN: Operation = Operation::CopyIn;
        if self.is_hidden(COPY_IN, path).await? {
            let silence = self.backend.deadlines().pull_inactivity;
            return runtime_support::copy::unpack(&self.handle(), path, content, silence).await;
        }
        let is_podman = self.backend.engine.is_podman();
        let before = if is_podman { Some(self.podman_folder(path).await?) } else { None };
        let (content, flow) = Content::new(content);
        let call = self.archive(COPY_IN, Method::PUT, path).stream("application/x-tar", content);
        let silence = self.backend.deadlines().pull_inactivity;
        let sent = tokio::select! {
            sent = self.backend.http.unit(call) => sent.map(drop),
            () = flow.stands_still(silence) => Err(Error::new(ErrorKind::Timeout)
                .with_message(format!("the engine has taken nothing for {silence:?}"))),
        };
        if let Some(error) = sent.as_ref().err().and(flow.failure()) {
            return Err(error);
        }
        if before == Some(ContainerStatus::Running) {
            let now = self.backend.inspect(COPY_IN, &self.container.id).await?;
            if now.status() != ContainerStatus::Running {
                return Err(Error::new(ErrorKind::Lost)
                    .with_message("the container ended while files were written into it"));
            }
        }
        let Err(error) = sent else { return Ok(()) };
        if error.kind() == ErrorKind::Unavailable && !is_podman {
            // An engine that refuses does not read the rest, and its answer can be lost with it.
            self.check_folder(path).await?;
        }
        Err(refused(error))
    }

    /// Packs the file or folder `path` into a tar stream.
    async fn pack(&self, path: &str) -> Result<ByteStream> {
        if self.is_hidden(Operation::CopyOut, path).await? {
            let silence = self.backend.deadlines().pull_inactivity;
            return runtime_support::copy::pack(&self.handle(), path, silence).await;
        }
        let silence = self.backend.deadlines().pull_inactivity;
        let bytes = if self.backend.engine.is_podman() {
            self.podman_archive(path, silence).await?
        } else {
            self.open_archive(path).await?
        };
        let id = self.container.id.clone();
        let whole = stream::unfold(Some((bytes, TarEnd::default())), move |state| async move {
            let (mut bytes, mut end) = state?;
            match timeout(silence, bytes.next()).await {
                Ok(Some(Ok(piece))) => {
                    end.push(&piece);
                    Some((Ok(piece), Some((bytes, end))))
                }
                Ok(Some(Err(error))) => Some((Err(error), None)),
                // Engines that fail on the way end the answer as if it were whole.
                Ok(None) if !end.is_whole() => Some((
                    Err(Error::internal("the engine has ended the archive before its end")),
                    None,
                )),
                Ok(None) => None,
                Err(_) => Some((Err(has_sent_nothing(silence)), None)),
            }
        });
        let whole = read_ahead(whole.boxed(), silence).map(move |piece: Result<Bytes>| {
            piece.during(Operation::CopyOut).on(BACKEND).about(&id)
        });
        Ok(whole.boxed())
    }

    fn handle(&self) -> Handle<DockerBackend> {
        Handle::new(self.backend, self.container.clone())
    }

    /// Whether the engine's archive calls do not see what the container has at this path. The
    /// container's own `tar` does, while it runs.
    ///
    /// # Errors
    /// `InvalidState` if the container does not run: then nothing is there.
    async fn is_hidden(&self, operation: Operation, path: &str) -> Result<bool> {
        let tmpfs = match self.container.state.tmpfs.get() {
            Some(tmpfs) => tmpfs,
            None => {
                let inspect = self.backend.inspect(operation, &self.container.id).await?;
                self.container.state.tmpfs.get_or_init(|| inspect.tmpfs())
            }
        };
        let Some(at) = hidden_by(path, tmpfs) else { return Ok(false) };
        let inspect = self.backend.inspect(operation, &self.container.id).await?;
        if inspect.status() == ContainerStatus::Running {
            return Ok(true);
        }
        Err(Error::new(ErrorKind::InvalidState).with_field("path").with_message(format!(
            "{at} is a file system that is there only while the container runs"
        )))
    }

    async fn open_archive(&self, path: &str) -> Result<ByteStream> {
        let call = self.archive(Operation::CopyOut, Method::GET, path);
        let answer = self.backend.open(Operation::CopyOut, call).await.map_err(refused)?;
        Ok(self.backend.http.stream(Operation::CopyOut, answer).boxed())
    }

    /// The archive of Podman, which does not hold a container that ends while it reads: its files
    /// are then unmounted under it, and it fails or gives nothing. It is asked again after that.
    async fn podman_archive(&self, path: &str, silence: Duration) -> Result<ByteStream> {
        for _ in 0..PODMAN_ARCHIVES {
            self.files_are_settled(Operation::CopyOut).await?;
            let mut bytes = match self.open_archive(path).await {
                Err(error) if error.kind() == ErrorKind::Internal => continue,
                opened => opened?,
            };
            match timeout(silence, bytes.next()).await {
                Ok(None) => {}
                Ok(Some(first)) => return Ok(stream::iter([first]).chain(bytes).boxed()),
                Err(_) => return Err(has_sent_nothing(silence)),
            }
        }
        self.open_archive(path).await
    }

    /// Checks, on Podman, that files can be unpacked into this folder, which it would make. Returns
    /// the state of the container before that.
    async fn podman_folder(&self, path: &str) -> Result<ContainerStatus> {
        for _ in 0..PODMAN_ARCHIVES {
            let before = self.files_are_settled(Operation::CopyIn).await?;
            match self.check_folder(path).await {
                Err(error) if error.kind() == ErrorKind::Internal => {}
                checked => return checked.map(|()| before),
            }
        }
        let before = self.files_are_settled(Operation::CopyIn).await?;
        self.check_folder(path).await.map(|()| before)
    }

    /// Waits, on Podman, until the files of a container that has ended are no longer being
    /// unmounted: until then its archive calls read and write below what is taken away. In
    /// between it calls the container "stopped", and "exited" after that. A clean-up that does
    /// not come to its end is not waited for longer than a query. Returns the state after that.
    async fn files_are_settled(&self, operation: Operation) -> Result<ContainerStatus> {
        let mut backoff = Backoff::new(POLL.0, POLL.1);
        let settled = async {
            loop {
                let seen = self.backend.inspect(operation, &self.container.id).await?;
                if !seen.is_being_cleaned_up() {
                    return Ok(seen.status());
                }
                tokio::time::sleep(backoff.delay()).await;
            }
        };
        let settled = timeout(self.backend.deadlines().query, settled).await;
        settled.unwrap_or(Ok(ContainerStatus::Exited))
    }

    fn archive(&self, operation: Operation, method: Method, path: &str) -> Call {
        let target = format!("/containers/{}/archive", self.container.id);
        Call::new(operation, method, target).query("path", path)
    }

    /// Whether `path` can be unpacked into.
    async fn check_folder(&self, path: &str) -> Result<()> {
        const COPY_IN: Operation = Operation::CopyIn;
        let call = self.archive(COPY_IN, Method::HEAD, path);
        let asked = self.backend.http.send(call);
        let answer = within(COPY_IN, self.backend.deadlines().query, asked).await?;
        if answer.status() == http::StatusCode::NOT_FOUND {
            // Without a body it does not say what is not there.
            self.backend.inspect(COPY_IN, &self.container.id).await?;
            return Err(Error::new(ErrorKind::NotFound).with_field("path"));
        }
        let answer = self.backend.http.check(COPY_IN, answer).await?;
        let mode = answer
            .headers()
            .get("x-docker-container-path-stat")
            .and_then(|stat| STANDARD.decode(stat).ok())
            .and_then(|stat| serde_json::from_slice::<Stat>(&stat).ok());
        match mode {
            Some(Stat { mode }) if mode & (FOLDER | LINK) == 0 => Err(not_a_folder()),
            _ => Ok(()),
        }
    }
}

/// What every container has mounted beside its own files.
const ALWAYS_MOUNTED: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Returns the file system that holds this path and that the engine's archive calls do not see.
fn hidden_by<'a>(path: &str, tmpfs: &'a [String]) -> Option<&'a str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let is_in = |at: &&str| {
        let at: Vec<_> = at.split('/').filter(|part| !part.is_empty()).collect();
        !at.is_empty() && parts.starts_with(&at)
    };
    tmpfs.iter().map(String::as_str).chain(ALWAYS_MOUNTED).find(is_in)
}

/// How many pieces are read ahead of a reader: the engine holds its lock on the container until
/// the archive is read, and neither answers questions about it nor signals it in that time.
const READ_AHEAD: usize = 64;

/// Reads ahead of the reader. A reader that takes nothing for so long, while there is no more room,
/// ends the copy with an error, and with it the engine's lock.
fn read_ahead(mut bytes: ByteStream, silence: Duration) -> ByteStream {
    let (sender, mut pieces) = mpsc::channel(READ_AHEAD);
    let overdue = Arc::new(AtomicBool::new(false));
    let given_up = Arc::clone(&overdue);
    tokio::spawn(async move {
        loop {
            let piece = tokio::select! {
                () = sender.closed() => return,
                piece = bytes.next() => piece,
            };
            let Some(piece) = piece else { return };
            match timeout(silence, sender.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    overdue.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    });
    let mut over = false;
    stream::poll_fn(move |cx| {
        if over {
            return Poll::Ready(None);
        }
        let piece = ready!(pieces.poll_recv(cx));
        over = piece.is_none();
        Poll::Ready(piece.or_else(|| {
            given_up.load(Ordering::Relaxed).then(|| {
                Err(Error::new(ErrorKind::Timeout).with_message(format!(
                    "nothing was read of the archive for {silence:?}, in which the engine cannot \
                     work on the container"
                )))
            })
        }))
    })
    .boxed()
}

#[derive(Deserialize)]
struct Stat {
    mode: u32,
}

fn has_sent_nothing(silence: Duration) -> Error {
    Error::new(ErrorKind::Timeout)
        .with_message(format!("the engine has sent nothing for {silence:?}"))
}

fn not_a_folder() -> Error {
    Error::invalid("path", "is not a folder")
}

/// What the engine's words about an archive mean.
fn refused(error: Error) -> Error {
    let words = error.message().unwrap_or_default().to_lowercase();
    let is_container = words.contains("no such container");
    let (kind, field, message) = match error.kind() {
        ErrorKind::NotFound if !is_container => (ErrorKind::NotFound, "path", None),
        ErrorKind::Internal | ErrorKind::InvalidArgument if words.contains("not a directory") => {
            return not_a_folder().with_source(error);
        }
        ErrorKind::Internal
            if words.contains("archive/tar:") || words.contains("unexpected eof") =>
        {
            (ErrorKind::InvalidArgument, "content", Some("is no whole tar stream"))
        }
        _ => return error,
    };
    let refused = Error::new(kind).with_field(field);
    match message {
        Some(message) => refused.with_message(message),
        None => refused,
    }
    .with_source(error)
}

/// The caller's bytes on their way to the engine.
struct Content {
    bytes: ByteStream,
    flow: Flow,
}

/// What is known of them outside.
#[derive(Clone)]
struct Flow(Arc<Mutex<FlowState>>);

struct FlowState {
    /// The caller's error, which ends the request.
    failure: Option<Error>,
    /// Whether the engine waits for the caller.
    wants_more: bool,
    moved: Instant,
}

impl Content {
    fn new(bytes: ByteStream) -> (Self, Flow) {
        let state = FlowState { failure: None, wants_more: false, moved: Instant::now() };
        let flow = Flow(Arc::new(Mutex::new(state)));
        (Self { bytes, flow: flow.clone() }, flow)
    }
}

impl Stream for Content {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.bytes.as_mut().poll_next(cx);
        let mut flow = self.flow.lock();
        flow.moved = Instant::now();
        flow.wants_more = polled.is_pending();
        polled.map(|next| {
            next.map(|piece| {
                piece.map_err(|error| {
                    flow.failure = Some(error.clone());
                    io::Error::other(error)
                })
            })
        })
    }
}

impl Flow {
    fn lock(&self) -> std::sync::MutexGuard<'_, FlowState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> Option<Error> {
        self.lock().failure.take()
    }

    /// Completes when the engine has neither taken anything nor waited for the caller for so long.
    async fn stands_still(&self, silence: Duration) {
        loop {
            let (moved, wants_more) = {
                let flow = self.lock();
                (flow.moved, flow.wants_more)
            };
            let now = Instant::now();
            let since = if wants_more { now } else { moved };
            if now.duration_since(since) >= silence {
                return;
            }
            sleep_until(since + silence).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_mean_what_they_say() {
        // What Docker Engine 20.10 and 26.1 and Podman 4.3 said.
        for (status, words, kind, field) in [
            (
                404,
                "Could not find the file /nope in container cp1",
                ErrorKind::NotFound,
                Some("path"),
            ),
            (404, "no such file or directory", ErrorKind::NotFound, Some("path")),
            (404, "No such container: nope", ErrorKind::NotFound, None),
            (
                404,
                "the container doesn't exists: no container with name or ID \"nope\" found: no such container",
                ErrorKind::NotFound,
                None,
            ),
            (500, "extraction point is not a directory", ErrorKind::InvalidArgument, Some("path")),
            (400, "extraction point is not a directory", ErrorKind::InvalidArgument, Some("path")),
            (
                500,
                "copier: put: /etc/passwd (/etc/passwd): exists but is not a directory",
                ErrorKind::InvalidArgument,
                Some("path"),
            ),
            (
                500,
                "Error processing tar file(exit status 1): unexpected EOF",
                ErrorKind::InvalidArgument,
                Some("content"),
            ),
            (500, "archive/tar: invalid tar header", ErrorKind::InvalidArgument, Some("content")),
            (500, "write /x: no space left on device", ErrorKind::ResourceExhausted, None),
            (500, "oops", ErrorKind::Internal, None),
        ] {
            let error = refused(crate::error::refusal(Operation::CopyIn, status, words));
            assert_eq!((error.kind(), error.field()), (kind, field), "{words}");
        }
    }

    #[test]
    fn file_systems_that_archives_do_not_show() {
        let tmpfs = ["/run/x/".to_owned()];
        for (path, at) in [
            ("/dev/shm/a", Some("/dev")),
            ("/dev", Some("/dev")),
            ("/srv/../dev/./shm", Some("/dev")),
            ("/run/x", Some("/run/x/")),
            ("/run/x/y", Some("/run/x/")),
            ("/run/xy", None),
            ("/device", None),
            ("/", None),
        ] {
            assert_eq!(hidden_by(path, &tmpfs), at, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn archive_that_is_not_read_ends_with_timeout() {
        let silence = Duration::from_secs(10);
        let (dropped, is_dropped) = tokio::sync::oneshot::channel::<()>();
        let endless = stream::repeat_with(move || {
            let _held_until_the_copy_ends = &dropped;
            Ok(Bytes::from_static(b"x"))
        });
        let mut archive = read_ahead(endless.boxed(), silence);
        assert!(archive.next().await.unwrap().is_ok());
        // The connection goes although nobody reads the rest.
        assert!(timeout(silence * 3, is_dropped).await.unwrap().is_err());
        let mut last = None;
        while let Some(piece) = archive.next().await {
            last = Some(piece);
        }
        assert_eq!(last.unwrap().unwrap_err().kind(), ErrorKind::Timeout);
        let whole = read_ahead(stream::iter([Ok(Bytes::from_static(b"x"))]).boxed(), silence);
        assert_eq!(whole.count().await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_engine_can_stand_still() {
        let silence = Duration::from_secs(10);
        let (mut content, flow) = Content::new(
            stream::iter([Ok(Bytes::from_static(b"x"))]).chain(stream::pending()).boxed(),
        );
        // It takes a piece and then nothing.
        content.next().await;
        let begun = Instant::now();
        flow.stands_still(silence).await;
        assert_eq!(begun.elapsed(), silence);
        // It would take more, but there is nothing.
        assert!(futures_util::poll!(content.next()).is_pending());
        assert!(timeout(silence * 10, flow.stands_still(silence)).await.is_err());
    }

    #[tokio::test]
    async fn the_callers_error_is_kept() {
        let failing = stream::iter([Err(Error::internal("the source has failed"))]).boxed();
        let (mut content, flow) = Content::new(failing);
        assert!(content.next().await.unwrap().is_err());
        assert_eq!(flow.failure().unwrap().message(), Some("the source has failed"));
    }
}
