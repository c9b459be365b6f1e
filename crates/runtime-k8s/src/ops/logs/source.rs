//! The log of a pod as a source that can be reopened.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use runtime_core::{
    Chunk, ContainerStatus, Error, ErrorKind, ExitReason, LogStream, Operation, Result, async_trait,
};
use runtime_support::follow::{LogSource, OpenLog};
use tokio::time::Instant;

use super::last_line::LastLine;
use super::request::{Opened, last_chunks, open, retryable_if_transient};
use super::rotation::ReadProgress;
use crate::client::lines::Lines;
use crate::model::container::KubernetesContainer;
use crate::model::info;
use crate::model::log_format as line;
use crate::model::pod::lifecycle;
use crate::state::KubernetesBackend;

/// How far before a time the log is opened, so that a line that began before it is read from its
/// beginning. Only a line that is longer than a piece is written in pieces. If its writer takes
/// longer than this for it, the first pieces are missing.
const RESUME_OVERLAP: Duration = Duration::from_secs(60);

/// The first minor version of a server all of whose kubelets follow a log over its rotation: this
/// was fixed in 1.29 (kubernetes#115702), and a kubelet is at most three versions older.
const FOLLOWS_ROTATION_MINOR: u32 = 32;

/// How long a follower may be silent before the log is checked for more lines. It is short enough
/// that no file is removed by rotation in the meantime, even if one check has no response.
const SILENCE_CHECK_INTERVAL: Duration = Duration::from_secs(3);

/// Silence after which a follower has read all of its open file. It is shorter than the time that a
/// reader waits for the rest of the log of an ended container.
const DRAINED_AFTER: Duration = Duration::from_millis(500);

/// A shorter log is not rotated: the default of the kubelet is 10 MiB.
const ROTATION_BYTES_MIN: usize = 64 << 10;

/// The log of a container.
pub(super) struct PodLog {
    backend: Arc<KubernetesBackend>,
    container: KubernetesContainer,
    progress: Arc<Mutex<ReadProgress>>,
    /// The next file of the log, opened as soon as the rotation was detected.
    next_file: Arc<Mutex<Option<Opened>>>,
}

impl std::fmt::Debug for PodLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodLog").field("container", &self.container).finish_non_exhaustive()
    }
}

impl PodLog {
    pub(super) fn new(backend: &Arc<KubernetesBackend>, container: &KubernetesContainer) -> Self {
        Self {
            backend: Arc::clone(backend),
            container: container.clone(),
            progress: Arc::default(),
            next_file: Arc::default(),
        }
    }

    fn stream(&self) -> LogStream {
        if self.container.has_terminal() { LogStream::Console } else { LogStream::Unknown }
    }
}

/// An open log.
struct OpenLogStream {
    backend: Arc<KubernetesBackend>,
    container: KubernetesContainer,
    progress: Arc<Mutex<ReadProgress>>,
    next_file: Arc<Mutex<Option<Opened>>>,
    lines: Lines,
    reader: line::Reader,
    since: Option<SystemTime>,
    follow: bool,
    /// Progress of the previous open, until the first chunk was compared with it.
    before: Option<ReadProgress>,
    /// The newest time that was read before this open.
    newest_before: Option<SystemTime>,
    opened: Instant,
    /// How much was read. A short log is not rotated.
    bytes: usize,
    /// The last line that was read.
    ending: LastLine,
    ready: VecDeque<Chunk>,
    ended: bool,
    /// Whether this open ends because the log continues in another file.
    has_moved: bool,
}

#[async_trait]
impl LogSource for PodLog {
    type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk>> + Send>>;

    async fn open(&self, from: OpenLog) -> Result<Self::Chunks> {
        let next_file = lock(&self.next_file).take().filter(|_| from.follow && from.tail.is_none());
        let (body, opened) = match next_file {
            Some(opened) => opened,
            None => {
                let look = self.backend.current(&self.container);
                let seen = self.backend.query(Operation::Logs, look).await?;
                if lifecycle::started_at(&seen.pod).is_none() {
                    // The log is empty before the start. A follower is reopened after the start.
                    return Ok(Box::pin(futures_util::stream::empty()));
                }
                open(&self.backend, &self.container, from).await?
            }
        };
        let before = *lock(&self.progress);
        let open = OpenLogStream {
            backend: Arc::clone(&self.backend),
            container: self.container.clone(),
            progress: Arc::clone(&self.progress),
            next_file: Arc::clone(&self.next_file),
            lines: Lines::new(body),
            reader: line::Reader::new(self.stream()),
            since: from.since,
            follow: from.follow,
            before: Some(before),
            newest_before: before.newest,
            opened,
            // The length of a log is unknown without its beginning.
            bytes: if from.since.is_some() || from.tail.is_some() { ROTATION_BYTES_MIN } else { 0 },
            ending: LastLine::default(),
            ready: VecDeque::new(),
            ended: false,
            has_moved: false,
        };
        open.is_current(open.opened);
        Ok(Box::pin(futures_util::stream::unfold(Some(Box::new(open)), |open| async move {
            let mut open = open?;
            match open.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(open))),
                Ok(None) => {
                    // An API server also ends a log without an error if it has lost the node.
                    lock(&open.progress).drained = false;
                    None
                }
                Err(error) => {
                    lock(&open.progress).drained = open.has_moved;
                    Some((Err(error), None))
                }
            }
        })))
    }

    async fn status(&self) -> Result<ContainerStatus> {
        let seen =
            self.backend.query(Operation::Logs, self.backend.current(&self.container)).await?;
        Ok(info::status(&seen.state))
    }

    async fn ended(&self) -> Result<()> {
        self.backend.wait_ended_with_retries(&self.container).await.map(drop)
    }

    async fn ended_by_removal(&self) -> bool {
        match self.backend.wait_ended_with_retries(&self.container).await {
            Ok(exit) => exit.reason == ExitReason::Removed,
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    /// Returns how long the rest of a log may take. A node checks once a second if the container of
    /// a followed log has ended. An ended container has written all of its log, so that only the
    /// network may delay the rest.
    fn drained(&self) -> Duration {
        // The rest is read again after that, so this only saves a request.
        Duration::from_millis(5)
    }

    /// Returns `true`: the node counts lines of the log file, and each piece of a long line.
    fn has_line_tail(&self) -> bool {
        true
    }

    fn resumes(&self) -> bool {
        true
    }

    fn open_since(&self, time: SystemTime) -> Option<SystemTime> {
        time.checked_sub(RESUME_OVERLAP)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenLogStream {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            while let Some(chunk) = self.ready.pop_front() {
                self.ending.push(&chunk);
                if self.since.is_some_and(|since| chunk.time < since) {
                    continue;
                }
                self.note(&chunk)?;
                return Ok(Some(chunk));
            }
            if self.ended {
                self.check_end().await?;
                return Ok(None);
            }
            let (part, is_all) = match self.line().await? {
                Some(part) => {
                    let is_all = part.ends_with(b"\n");
                    (part, is_all)
                }
                None => {
                    self.ended = true;
                    if self.follow && self.has_more().await? {
                        return Err(self.moved().await);
                    }
                    let rest = self.lines.rest();
                    if rest.is_none() && !self.reader.is_in_line() {
                        self.check_continuity(None)?;
                        self.check_end().await?;
                        return Ok(None);
                    }
                    if self.follow && !self.has_ended().await? {
                        // If the container runs, the connection was lost within a line.
                        return Err(Error::new(ErrorKind::Unavailable)
                            .with_message("the connection was lost within a line of the log"));
                    }
                    (rest.unwrap_or_default(), true)
                }
            };
            self.bytes += part.len();
            let ready = &mut self.ready;
            self.reader.read(part, is_all, |chunk| ready.push_back(chunk))?;
        }
    }

    /// Checks that a log that is not followed was read to its end, because the API server also ends
    /// a response without an error if it has lost the node. No request is sent if this open has
    /// returned nothing new, because then two reads agree on the end.
    async fn check_end(&mut self) -> Result<()> {
        let (newest, target) = {
            let progress = lock(&self.progress);
            (progress.newest, progress.target)
        };
        if self.follow {
            return Ok(());
        }
        let is_short = match target {
            // Lines that the container has written since are not required.
            Some(_) if newest >= target => return Ok(()),
            Some(_) => true,
            None => false,
        };
        if !is_short && !self.ending.has_new(self.newest_before) {
            return Ok(());
        }
        let last = last_chunks(&self.backend, &self.container);
        let last = match self.backend.query(Operation::Logs, last).await {
            Ok(last) => last,
            // The container, or its log, was removed in the meantime.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::Lost | ErrorKind::InvalidArgument
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let Some(time) = last.back().map(|chunk| chunk.time) else { return Ok(()) };
        let is_read = newest.max(self.ending.newest()) >= Some(time);
        let is_wanted = self.since.is_none_or(|since| time >= since);
        if is_read || !is_wanted || self.ending.ends_with(&last) {
            return Ok(());
        }
        lock(&self.progress).target.get_or_insert(time);
        Err(Error::new(ErrorKind::Lost)
            .with_retryable(true)
            .with_message("the server has ended the log before its last line"))
    }

    /// Returns the next line, or a part of a long line. A silent follower checks if the log has
    /// more lines.
    async fn line(&mut self) -> Result<Option<Bytes>> {
        if !self.follow {
            return self.lines.next_within(line::PIECE_BYTES_MAX).await;
        }
        let next = self.lines.next_within(line::PIECE_BYTES_MAX);
        if let Ok(line) = tokio::time::timeout(DRAINED_AFTER, next).await {
            return line;
        }
        if self.is_sound() {
            lock(&self.progress).drained = true;
        }
        loop {
            let asleep = Instant::now();
            match tokio::time::timeout(
                SILENCE_CHECK_INTERVAL,
                self.lines.next_within(line::PIECE_BYTES_MAX),
            )
            .await
            {
                Ok(line) => return line,
                // The node itself continues with the next file.
                Err(_) if !self.can_lose_sight() => self.is_current(asleep),
                Err(_) if self.has_more().await? => return Err(self.moved().await),
                Err(_) => {}
            }
        }
    }

    /// Returns whether nothing was lost between the opens, independently of the next chunk.
    fn is_sound(&self) -> bool {
        self.before.is_none_or(|before| before.is_whole(self.opened))
    }

    /// Records that the open file was the newest of the log at that time.
    fn is_current(&self, then: Instant) {
        if self.is_sound() {
            lock(&self.progress).at = Some(then);
        }
    }

    /// Opens the next file of a rotated log before any other request, because rotation soon removes
    /// files.
    async fn moved(&mut self) -> Error {
        self.has_moved = true;
        let from = OpenLog { since: None, tail: None, follow: true };
        if let Ok(opened) = open(&self.backend, &self.container, from).await {
            *lock(&self.next_file) = Some(opened);
        }
        Error::new(ErrorKind::Unavailable).with_message("the node has rotated the log")
    }

    fn can_lose_sight(&self) -> bool {
        self.backend.server.minor < FOLLOWS_ROTATION_MINOR
    }

    /// Returns whether the log has lines that the follower has not received.
    async fn has_more(&mut self) -> Result<bool> {
        if !self.can_lose_sight() || self.bytes < ROTATION_BYTES_MIN {
            return Ok(false);
        }
        let asked_at = Instant::now();
        let last = last_chunks(&self.backend, &self.container);
        let newest = match self.backend.query(Operation::Logs, last).await {
            Ok(last) => last.back().map(|chunk| chunk.time),
            // The check is repeated after the next silence.
            Err(error) if error.is_retryable() => return Ok(false),
            Err(error) => return Err(retryable_if_transient(error)),
        };
        let read = lock(&self.progress).newest;
        match newest {
            // The log was rotated and the new file is empty. It has to be opened before it is
            // rotated, too. The file of an ended container is not rotated.
            None if self.before.is_none() => {
                return Ok(!self.ended || self.has_ended().await.is_ok_and(|ended| !ended));
            }
            None => self.is_current(asked_at),
            Some(_) if newest > read => return Ok(true),
            Some(_) => lock(&self.progress).at = Some(asked_at),
        }
        Ok(false)
    }

    async fn has_ended(&mut self) -> Result<bool> {
        let seen = self.backend.current(&self.container).await?;
        Ok(info::status(&seen.state) == ContainerStatus::Exited)
    }

    fn note(&mut self, chunk: &Chunk) -> Result<()> {
        self.check_continuity(Some(chunk.time))?;
        let mut progress = lock(&self.progress);
        progress.newest = progress.newest.max(Some(chunk.time));
        progress.at = Some(Instant::now());
        progress.drained = false;
        Ok(())
    }

    /// Checks with the first chunk after a reopen, or its absence, that nothing was lost in
    /// between.
    fn check_continuity(&mut self, first: Option<SystemTime>) -> Result<()> {
        match self.before.take().and_then(|before| before.gap(first, self.opened)) {
            Some(gap) => Err(gap.error()),
            None => Ok(()),
        }
    }
}
