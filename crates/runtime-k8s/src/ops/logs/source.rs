//! A pod's log as a source that can be opened again.

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

use super::ending::Ending;
use super::request::{Opened, last_chunks, mistaken, open};
use super::rotation::Progress;
use crate::client::lines::Lines;
use crate::model::container::KubernetesContainer;
use crate::model::info;
use crate::model::log_line as line;
use crate::model::pod::lifecycle;
use crate::state::KubernetesBackend;

/// How far before a time the log is opened, so that a line that began before it comes with its
/// beginning. A line is written in pieces only where it is longer than a piece; one that takes its
/// writer longer than this comes without its first pieces.
const BEFORE: Duration = Duration::from_secs(60);

/// A server from this version on has no node whose kubelet loses sight of a rotated log: that was
/// mended in 1.29 (kubernetes#115702), and a kubelet is at most three versions older.
const FOLLOWS_ROTATION: u32 = 32;

/// How long a follower may be silent before it is asked whether that is the truth: short enough
/// that no file is rotated away in the meantime, also when one of the questions has no answer.
const SILENCE: Duration = Duration::from_secs(3);

/// How long a follower is silent when it has read all of the file that it has open: shorter than
/// what a reader waits for the rest of a container that has ended.
const DRAINED: Duration = Duration::from_millis(500);

/// A log shorter than this is not rotated: the kubelet's default is 10 MiB.
const SHORT: usize = 64 << 10;

/// The log of a container.
pub(super) struct PodLog {
    backend: Arc<KubernetesBackend>,
    container: KubernetesContainer,
    progress: Arc<Mutex<Progress>>,
    /// The file in which the log goes on, opened at once by who has found that.
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
struct Open {
    backend: Arc<KubernetesBackend>,
    container: KubernetesContainer,
    progress: Arc<Mutex<Progress>>,
    next_file: Arc<Mutex<Option<Opened>>>,
    lines: Lines,
    reader: line::Reader,
    since: Option<SystemTime>,
    follow: bool,
    /// What was read at the open before, until a chunk has shown whether the log goes on there.
    before: Option<Progress>,
    /// The newest that was read before this open.
    newest_before: Option<SystemTime>,
    opened: Instant,
    /// Whether the log may have been rotated since it was opened.
    bytes: usize,
    /// The end of what was read.
    ending: Ending,
    ready: VecDeque<Chunk>,
    ended: bool,
    /// Whether it ends because the log goes on in another file.
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
                let look = self.backend.look(&self.container);
                let seen = self.backend.query(Operation::Logs, look).await?;
                if lifecycle::started_at(&seen.pod).is_none() {
                    // Nothing was ever written. A follower comes again when it was started.
                    return Ok(Box::pin(futures_util::stream::empty()));
                }
                open(&self.backend, &self.container, from).await?
            }
        };
        let before = *lock(&self.progress);
        let open = Open {
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
            // Without the beginning of the log its length is not known.
            bytes: if from.since.is_some() || from.tail.is_some() { SHORT } else { 0 },
            ending: Ending::default(),
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
                    // An API server ends a log in order also when it has lost the node.
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
        let seen = self.backend.query(Operation::Logs, self.backend.look(&self.container)).await?;
        Ok(info::status(&seen.state))
    }

    async fn ended(&self) -> Result<()> {
        self.backend.until_ended_whatever_comes(&self.container).await.map(drop)
    }

    async fn ended_by_removal(&self) -> bool {
        match self.backend.until_ended_whatever_comes(&self.container).await {
            Ok(exit) => exit.reason == ExitReason::Removed,
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    /// A node looks once a second whether the container has ended whose log it gives. A container
    /// that has ended has written all of it, and only the network may lag.
    fn drained(&self) -> Duration {
        // The rest is read anew after that, so this only saves a request.
        Duration::from_millis(5)
    }

    /// The node counts the lines of the log file, and of a long line each piece.
    fn has_line_tail(&self) -> bool {
        true
    }

    fn resumes(&self) -> bool {
        true
    }

    fn open_since(&self, time: SystemTime) -> Option<SystemTime> {
        time.checked_sub(BEFORE)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
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
                        // Of a container that runs this is a line that was cut on its way.
                        return Err(
                            Error::new(ErrorKind::Unavailable).with_message("the log was cut off")
                        );
                    }
                    (rest.unwrap_or_default(), true)
                }
            };
            self.bytes += part.len();
            let ready = &mut self.ready;
            self.reader.read(part, is_all, |chunk| ready.push_back(chunk))?;
        }
    }

    /// Checks that a log that was not followed has been read to its end: the API server ends a
    /// response in order also when it has lost the node. Nothing is asked if this open has returned
    /// nothing new, because then two reads agree on the end.
    async fn check_end(&mut self) -> Result<()> {
        let (newest, target) = {
            let progress = lock(&self.progress);
            (progress.newest, progress.target)
        };
        if self.follow {
            return Ok(());
        }
        let is_short = match target {
            // A container that goes on writing has more by now, which is not asked for.
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
            // The container, or its log, has been removed since.
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
        Err(Error::new(ErrorKind::Lost).with_retryable(true).with_message(
            "the server has ended the log before its end, and not all of it was returned",
        ))
    }

    /// The next line, or a part of a long one. A follower that is silent for long asks whether there
    /// is more.
    async fn line(&mut self) -> Result<Option<Bytes>> {
        if !self.follow {
            return self.lines.next_within(line::MOST).await;
        }
        let next = self.lines.next_within(line::MOST);
        if let Ok(line) = tokio::time::timeout(DRAINED, next).await {
            return line;
        }
        if self.is_sound() {
            lock(&self.progress).drained = true;
        }
        loop {
            let asleep = Instant::now();
            match tokio::time::timeout(SILENCE, self.lines.next_within(line::MOST)).await {
                Ok(line) => return line,
                // The node goes on with the next file by itself.
                Err(_) if !self.can_lose_sight() => self.is_current(asleep),
                Err(_) if self.has_more().await? => return Err(self.moved().await),
                Err(_) => {}
            }
        }
    }

    /// Whether nothing was lost between the opens, whatever comes next.
    fn is_sound(&self) -> bool {
        self.before.is_none_or(|before| before.is_whole(self.opened))
    }

    /// The open file was the newest of the log then.
    fn is_current(&self, then: Instant) {
        if self.is_sound() {
            lock(&self.progress).at = Some(then);
        }
    }

    /// The follower reads a file in which nothing comes any more. The next one is opened before
    /// anything else is asked, because a file does not live for long.
    async fn moved(&mut self) -> Error {
        self.has_moved = true;
        let from = OpenLog { since: None, tail: None, follow: true };
        if let Ok(opened) = open(&self.backend, &self.container, from).await {
            *lock(&self.next_file) = Some(opened);
        }
        Error::new(ErrorKind::Unavailable).with_message("the node has rotated the log")
    }

    fn can_lose_sight(&self) -> bool {
        self.backend.server.minor < FOLLOWS_ROTATION
    }

    /// Whether the log has lines that a follower was not given.
    async fn has_more(&mut self) -> Result<bool> {
        if !self.can_lose_sight() || self.bytes < SHORT {
            return Ok(false);
        }
        let asked_at = Instant::now();
        let last = last_chunks(&self.backend, &self.container);
        let newest = match self.backend.query(Operation::Logs, last).await {
            Ok(last) => last.back().map(|chunk| chunk.time),
            // It is asked again after the next silence.
            Err(error) if error.is_retryable() => return Ok(false),
            Err(error) => return Err(mistaken(error)),
        };
        let read = lock(&self.progress).newest;
        match newest {
            // The file that was read was rotated away. The new one is opened before it is, too;
            // that of a container that has ended stays as it is.
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
        let seen = self.backend.look(&self.container).await?;
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

    /// The first chunk of a log that was opened again, or that there is none: is what was read
    /// before still there, or known to be followed by this?
    fn check_continuity(&mut self, first: Option<SystemTime>) -> Result<()> {
        match self.before.take().and_then(|before| before.gap(first, self.opened)) {
            Some(gap) => Err(gap.error()),
            None => Ok(()),
        }
    }
}
