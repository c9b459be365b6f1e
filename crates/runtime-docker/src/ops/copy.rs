//! Copies files into and out of a container, by the engine's archive requests.

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
use crate::client::http::ApiRequest;
use crate::error::BACKEND;
use crate::state::{DockerBackend, DockerContainer};

/// The intervals of polls for the unmount of an ended container's files.
const POLL_UNMOUNT: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// How often a failed or empty archive of Podman is requested again: after the end of the
/// container, and after its clean-up.
const PODMAN_RETRIES: usize = 2;
/// The bit of a directory in Go's file modes.
const MODE_DIR: u32 = 1 << 31;
/// The bit of a symbolic link in Go's file modes.
const MODE_SYMLINK: u32 = 1 << 27;

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
    async fn unpack(&self, path: &str, content: ByteStream) -> Result<()> {
        const COPY_IN: Operation = Operation::CopyIn;
        if self.is_hidden(COPY_IN, path).await? {
            let idle_timeout = self.backend.deadlines().pull_inactivity;
            return runtime_support::copy::unpack(&self.handle(), path, content, idle_timeout)
                .await;
        }
        let is_podman = self.backend.engine.is_podman();
        let before = if is_podman { Some(self.check_podman_directory(path).await?) } else { None };
        let (content, flow) = Content::new(content);
        let request = self.archive(COPY_IN, Method::PUT, path).stream("application/x-tar", content);
        let idle_timeout = self.backend.deadlines().pull_inactivity;
        let sent = tokio::select! {
            sent = self.backend.http.unit(request) => sent.map(drop),
            () = flow.until_stalled(idle_timeout) => Err(Error::new(ErrorKind::Timeout)
                .with_message(format!("the engine has read nothing for {idle_timeout:?}"))),
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
            // An engine that refuses does not read the rest, and its response can be lost.
            self.check_directory(path).await?;
        }
        Err(refused(error))
    }

    async fn pack(&self, path: &str) -> Result<ByteStream> {
        if self.is_hidden(Operation::CopyOut, path).await? {
            let idle_timeout = self.backend.deadlines().pull_inactivity;
            let id = self.container.id.clone();
            let pieces = runtime_support::copy::pack(&self.handle(), path, idle_timeout).await?;
            let pieces = pieces.map(move |piece: Result<Bytes>| {
                piece.during(Operation::CopyOut).on(BACKEND).about(&id)
            });
            return Ok(pieces.boxed());
        }
        let idle_timeout = self.backend.deadlines().pull_inactivity;
        let bytes = if self.backend.engine.is_podman() {
            self.podman_archive(path, idle_timeout).await?
        } else {
            self.open_archive(path).await?
        };
        let id = self.container.id.clone();
        let whole = stream::unfold(Some((bytes, TarEnd::default())), move |state| async move {
            let (mut bytes, mut end) = state?;
            match timeout(idle_timeout, bytes.next()).await {
                Ok(Some(Ok(piece))) => {
                    end.push(&piece);
                    Some((Ok(piece), Some((bytes, end))))
                }
                Ok(Some(Err(error))) => Some((Err(error), None)),
                // Engines that fail within the archive end the response without an error.
                Ok(None) if !end.is_whole() => {
                    Some((Err(Error::internal("the engine sent an incomplete archive")), None))
                }
                Ok(None) => None,
                Err(_) => Some((Err(has_sent_nothing(idle_timeout)), None)),
            }
        });
        let whole = read_ahead(whole.boxed(), idle_timeout).map(move |piece: Result<Bytes>| {
            piece.during(Operation::CopyOut).on(BACKEND).about(&id)
        });
        Ok(whole.boxed())
    }

    fn handle(&self) -> Handle<DockerBackend> {
        Handle::new(self.backend, self.container.clone())
    }

    /// Returns `true` if this path is on a file system that the engine's archive requests do not see.
    /// While the container is running, its own `tar` is used then.
    ///
    /// # Errors
    /// `InvalidState` if such a file system is not mounted, because the container is not running.
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
        Err(Error::new(ErrorKind::InvalidState)
            .with_field("path")
            .with_message(format!("{at} is only mounted while the container is running")))
    }

    async fn open_archive(&self, path: &str) -> Result<ByteStream> {
        let request = self.archive(Operation::CopyOut, Method::GET, path);
        let response = self.backend.open(Operation::CopyOut, request).await.map_err(refused)?;
        Ok(self.backend.http.stream(Operation::CopyOut, response).boxed())
    }

    /// Opens an archive of Podman. If the container ends meanwhile, Podman unmounts its files and
    /// fails or returns an empty archive. The request is then repeated.
    async fn podman_archive(&self, path: &str, idle_timeout: Duration) -> Result<ByteStream> {
        for _ in 0..PODMAN_RETRIES {
            self.until_unmounted(Operation::CopyOut).await?;
            let mut bytes = match self.open_archive(path).await {
                Err(error) if error.kind() == ErrorKind::Internal => continue,
                opened => opened?,
            };
            match timeout(idle_timeout, bytes.next()).await {
                Ok(None) => {}
                Ok(Some(first)) => return Ok(stream::iter([first]).chain(bytes).boxed()),
                Err(_) => return Err(has_sent_nothing(idle_timeout)),
            }
        }
        self.open_archive(path).await
    }

    /// Checks that `path` is a directory, because Podman would create it. Returns the status of the
    /// container before the check.
    async fn check_podman_directory(&self, path: &str) -> Result<ContainerStatus> {
        for _ in 0..PODMAN_RETRIES {
            let before = self.until_unmounted(Operation::CopyIn).await?;
            match self.check_directory(path).await {
                Err(error) if error.kind() == ErrorKind::Internal => {}
                checked => return checked.map(|()| before),
            }
        }
        let before = self.until_unmounted(Operation::CopyIn).await?;
        self.check_directory(path).await.map(|()| before)
    }

    /// Waits until Podman has unmounted the files of an ended container, because its archive
    /// requests read and write below the mount meanwhile. The container is "stopped" until then,
    /// and "exited" after that. Waits no longer than the deadline of a query. Returns the status
    /// after that.
    async fn until_unmounted(&self, operation: Operation) -> Result<ContainerStatus> {
        let mut backoff = Backoff::new(POLL_UNMOUNT.0, POLL_UNMOUNT.1);
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

    fn archive(&self, operation: Operation, method: Method, path: &str) -> ApiRequest {
        let target = format!("/containers/{}/archive", self.container.id);
        ApiRequest::new(operation, method, target).query("path", path)
    }

    /// Checks that `path` is a directory.
    async fn check_directory(&self, path: &str) -> Result<()> {
        const COPY_IN: Operation = Operation::CopyIn;
        let request = self.archive(COPY_IN, Method::HEAD, path);
        let sent = self.backend.http.send(request);
        let response = within(COPY_IN, self.backend.deadlines().query, sent).await?;
        if response.status() == http::StatusCode::NOT_FOUND {
            // The response has no body. The inspect fails if the container does not exist.
            self.backend.inspect(COPY_IN, &self.container.id).await?;
            return Err(Error::new(ErrorKind::NotFound).with_field("path"));
        }
        let response = self.backend.http.check(COPY_IN, response).await?;
        let mode = response
            .headers()
            .get("x-docker-container-path-stat")
            .and_then(|stat| STANDARD.decode(stat).ok())
            .and_then(|stat| serde_json::from_slice::<Stat>(&stat).ok());
        match mode {
            Some(Stat { mode }) if mode & (MODE_DIR | MODE_SYMLINK) == 0 => Err(not_a_directory()),
            _ => Ok(()),
        }
    }
}

/// The mount points of every container.
const ALWAYS_MOUNTED: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Returns the mount point of this path, if the engine's archive requests do not see it.
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

/// The number of buffered pieces. The engine locks the container until the archive is read, and
/// does not inspect or signal it in that time.
const CHANNEL_CAPACITY: usize = 64;

/// Buffers an archive ahead of its reader. If the buffer is full and not read for `idle_timeout`,
/// the copy ends with an error, which releases the engine's lock.
fn read_ahead(mut bytes: ByteStream, idle_timeout: Duration) -> ByteStream {
    let (sender, mut pieces) = mpsc::channel(CHANNEL_CAPACITY);
    let overdue = Arc::new(AtomicBool::new(false));
    let given_up = Arc::clone(&overdue);
    tokio::spawn(async move {
        loop {
            let piece = tokio::select! {
                () = sender.closed() => return,
                piece = bytes.next() => piece,
            };
            let Some(piece) = piece else { return };
            match timeout(idle_timeout, sender.send(piece)).await {
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
                    "the archive was not read for {idle_timeout:?}, and the engine locks the container \
                     meanwhile"
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

fn has_sent_nothing(idle_timeout: Duration) -> Error {
    Error::new(ErrorKind::Timeout)
        .with_message(format!("the engine has sent nothing for {idle_timeout:?}"))
}

fn not_a_directory() -> Error {
    Error::invalid("path", "is not a directory")
}

/// Adds the field to the engine's error about an archive.
fn refused(error: Error) -> Error {
    let text = error.message().unwrap_or_default().to_lowercase();
    let is_container = text.contains("no such container");
    let (kind, field, message) = match error.kind() {
        ErrorKind::NotFound if !is_container => (ErrorKind::NotFound, "path", None),
        ErrorKind::Internal | ErrorKind::InvalidArgument if text.contains("not a directory") => {
            return not_a_directory().with_source(error);
        }
        ErrorKind::Internal if text.contains("archive/tar:") || text.contains("unexpected eof") => {
            (ErrorKind::InvalidArgument, "content", Some("is not a complete tar stream"))
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

/// The caller's bytes, as the body of a request.
struct Content {
    bytes: ByteStream,
    flow: Flow,
}

/// The progress of the body.
#[derive(Clone)]
struct Flow(Arc<Mutex<FlowState>>);

struct FlowState {
    /// The error of the caller's stream, which ends the request.
    failure: Option<Error>,
    /// `true` if the engine waits for the caller's stream.
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

    /// Completes when the engine has read nothing for `idle_timeout`, although bytes were available.
    async fn until_stalled(&self, idle_timeout: Duration) {
        loop {
            let (moved, wants_more) = {
                let flow = self.lock();
                (flow.moved, flow.wants_more)
            };
            let now = Instant::now();
            let since = if wants_more { now } else { moved };
            if now.duration_since(since) >= idle_timeout {
                return;
            }
            sleep_until(since + idle_timeout).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_of_archive_has_kind_and_field() {
        // Messages of Docker Engine 20.10 and 26.1, and of Podman 4.3.
        for (status, message, kind, field) in [
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
            let error = refused(crate::error::refusal(Operation::CopyIn, status, message));
            assert_eq!((error.kind(), error.field()), (kind, field), "{message}");
        }
    }

    #[test]
    fn paths_on_hidden_file_systems_are_found() {
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
        let idle_timeout = Duration::from_secs(10);
        let (dropped, is_dropped) = tokio::sync::oneshot::channel::<()>();
        let endless = stream::repeat_with(move || {
            let _dropped_with_the_copy = &dropped;
            Ok(Bytes::from_static(b"x"))
        });
        let mut archive = read_ahead(endless.boxed(), idle_timeout);
        assert!(archive.next().await.unwrap().is_ok());
        // The connection is closed although the rest is not read.
        assert!(timeout(idle_timeout * 3, is_dropped).await.unwrap().is_err());
        let mut last = None;
        while let Some(piece) = archive.next().await {
            last = Some(piece);
        }
        assert_eq!(last.unwrap().unwrap_err().kind(), ErrorKind::Timeout);
        let whole = read_ahead(stream::iter([Ok(Bytes::from_static(b"x"))]).boxed(), idle_timeout);
        assert_eq!(whole.count().await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_engine_can_stall() {
        let idle_timeout = Duration::from_secs(10);
        let (mut content, flow) = Content::new(
            stream::iter([Ok(Bytes::from_static(b"x"))]).chain(stream::pending()).boxed(),
        );
        // The engine reads a piece and then nothing.
        content.next().await;
        let begun = Instant::now();
        flow.until_stalled(idle_timeout).await;
        assert_eq!(begun.elapsed(), idle_timeout);
        // The engine waits for the caller.
        assert!(futures_util::poll!(content.next()).is_pending());
        assert!(timeout(idle_timeout * 10, flow.until_stalled(idle_timeout)).await.is_err());
    }

    #[tokio::test]
    async fn error_of_caller_is_returned() {
        let failing = stream::iter([Err(Error::internal("the source failed"))]).boxed();
        let (mut content, flow) = Content::new(failing);
        assert!(content.next().await.unwrap().is_err());
        assert_eq!(flow.failure().unwrap().message(), Some("the source failed"));
    }
}
