//! A pod's log as a source that can be opened again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use k8s_openapi::jiff::Timestamp;
use runtime_core::{
    Chunk, ContainerStatus, Error, ErrorKind, LogStream, Operation, Result, async_trait,
};
use runtime_support::follow::{LogSource, OpenLog};
use tokio::time::Instant;

use super::line;
use crate::container::KubernetesContainer;
use crate::info;
use crate::lines::Lines;
use crate::names::CONTAINER;
use crate::state;

/// How far before a time the log is opened, so that a line that began before it comes with its
/// beginning. A line is written in pieces only where it is longer than a piece; one that takes its
/// writer longer than this comes without its first pieces.
const BEFORE: Duration = Duration::from_secs(60);

/// A server from this version on has no node whose kubelet loses sight of a rotated log: that was
/// mended in 1.29 (kubernetes#115702), and a kubelet is at most three versions older.
const FOLLOWS_ROTATION: u32 = 32;

/// The kubelet looks every 10 s at what is to be rotated, so a file lives at least that long.
const FILE_LIFE: Duration = Duration::from_secs(10);

/// How long a follower may be silent before it is asked whether that is the truth: short enough
/// that no file is rotated away in the meantime.
const SILENCE: Duration = Duration::from_secs(4);

/// A log shorter than this is not rotated: the kubelet's default is 10 MiB.
const SHORT: usize = 64 << 10;

/// What has been read over all opens.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    newest: Option<SystemTime>,
    /// When something last came, or was known to have come.
    at: Option<Instant>,
}

/// The log of a container.
#[derive(Debug)]
pub(super) struct PodLog {
    container: KubernetesContainer,
    progress: Arc<Mutex<Progress>>,
}

impl PodLog {
    pub(super) fn new(container: KubernetesContainer) -> Self {
        Self { container, progress: Arc::default() }
    }

    fn stream(&self) -> LogStream {
        if self.container.tty { LogStream::Console } else { LogStream::Unknown }
    }
}

/// An open log.
struct Open {
    container: KubernetesContainer,
    progress: Arc<Mutex<Progress>>,
    lines: Lines,
    stream: LogStream,
    since: Option<SystemTime>,
    follow: bool,
    /// What was read at the open before; the log has to have it still.
    before: Progress,
    /// Whether the log may have been rotated since it was opened.
    bytes: usize,
    ready: VecDeque<Chunk>,
    ended: bool,
}

#[async_trait]
impl LogSource for PodLog {
    type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk>> + Send>>;

    async fn open(&self, from: OpenLog) -> Result<Self::Chunks> {
        let container = &self.container;
        let shared = &container.shared;
        let seen = shared.query(Operation::Logs, container.look()).await?;
        if state::started_at(&seen.pod).is_none() {
            // Nothing was ever written. A follower comes again when it was started.
            return Ok(Box::pin(futures_util::stream::empty()));
        }
        let mut query =
            vec![("container", CONTAINER.to_owned()), ("timestamps", "true".to_owned())];
        if from.follow {
            query.push(("follow", "true".to_owned()));
        }
        if let Some(since) = from.since.and_then(whole_seconds) {
            query.push(("sinceTime", since));
        }
        let open = shared.client.open_log(&container.pod_name, &query);
        let body = shared.query(Operation::Logs, open).await.map_err(mistaken)?;
        let open = Open {
            container: container.clone(),
            progress: Arc::clone(&self.progress),
            lines: Lines::new(body),
            stream: self.stream(),
            since: from.since,
            follow: from.follow,
            before: *lock(&self.progress),
            // Without the beginning of the log its length is not known.
            bytes: if from.since.is_some() { SHORT } else { 0 },
            ready: VecDeque::new(),
            ended: false,
        };
        Ok(Box::pin(futures_util::stream::unfold(Some(Box::new(open)), |open| async move {
            let mut open = open?;
            match open.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(open))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn status(&self) -> Result<ContainerStatus> {
        let seen = self.container.shared.query(Operation::Logs, self.container.look()).await?;
        Ok(info::status(&seen.state))
    }

    async fn ended(&self) -> Result<()> {
        self.container.until_ended().await.map(drop)
    }

    fn open_since(&self, time: SystemTime) -> Option<SystemTime> {
        time.checked_sub(BEFORE)
    }
}

fn lock(progress: &Mutex<Progress>) -> std::sync::MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            while let Some(chunk) = self.ready.pop_front() {
                if self.since.is_some_and(|since| chunk.time < since) {
                    continue;
                }
                self.note(&chunk)?;
                return Ok(Some(chunk));
            }
            if self.ended {
                return Ok(None);
            }
            let line = match self.line().await? {
                Some(line) => line,
                None => {
                    self.ended = true;
                    if self.follow && self.has_more().await? {
                        return Err(moved());
                    }
                    if self.lines.is_empty() {
                        self.check_continuity(None)?;
                    }
                    let Some(rest) = self.lines.rest() else { return Ok(None) };
                    if self.follow && !self.has_ended().await? {
                        // Of a container that runs this is a line that was cut on its way.
                        return Err(
                            Error::new(ErrorKind::Unavailable).with_message("the log was cut off")
                        );
                    }
                    rest
                }
            };
            self.bytes += line.len();
            let ready = &mut self.ready;
            line::read(line, self.stream, |chunk| ready.push_back(chunk))?;
        }
    }

    /// The next line. A follower that is silent for long asks whether there is more.
    async fn line(&mut self) -> Result<Option<Bytes>> {
        if !self.follow || !self.can_lose_sight() {
            return self.lines.next().await;
        }
        loop {
            match tokio::time::timeout(SILENCE, self.lines.next()).await {
                Ok(line) => return line,
                Err(_) if self.has_more().await? => return Err(moved()),
                Err(_) => {}
            }
        }
    }

    fn can_lose_sight(&self) -> bool {
        self.container.shared.server.minor < FOLLOWS_ROTATION
    }

    /// Whether the log has lines that a follower was not given.
    async fn has_more(&mut self) -> Result<bool> {
        if !self.can_lose_sight() || self.bytes < SHORT {
            return Ok(false);
        }
        let asked_at = Instant::now();
        let last = last_chunks(&self.container);
        let newest = match self.container.shared.query(Operation::Logs, last).await {
            Ok(last) => last.last().map(|chunk| chunk.time),
            // It is asked again after the next silence.
            Err(error) if error.is_retryable() => return Ok(false),
            Err(error) => return Err(mistaken(error)),
        };
        let mut progress = lock(&self.progress);
        let has_more = newest.is_some() && newest > progress.newest;
        if !has_more && newest.is_some() {
            progress.at = Some(asked_at);
        }
        Ok(has_more)
    }

    async fn has_ended(&mut self) -> Result<bool> {
        let seen = self.container.look().await?;
        Ok(info::status(&seen.state) == ContainerStatus::Exited)
    }

    fn note(&mut self, chunk: &Chunk) -> Result<()> {
        self.check_continuity(Some(chunk.time))?;
        let mut progress = lock(&self.progress);
        progress.newest = progress.newest.max(Some(chunk.time));
        progress.at = Some(Instant::now());
        Ok(())
    }

    /// The first chunk of a log that was opened again, or that there is none: is what was read
    /// before still there? If not, the log was rotated in between, and if that can have been
    /// twice, what stood in the file between is gone.
    fn check_continuity(&mut self, first: Option<SystemTime>) -> Result<()> {
        let before = std::mem::take(&mut self.before);
        let (Some(newest), Some(at)) = (before.newest, before.at) else { return Ok(()) };
        let goes_on = first.is_some_and(|first| first <= newest);
        if goes_on || at.elapsed() < FILE_LIFE {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Lost).with_message(
            "the node has rotated the log while it could not be read, and part of it may be lost",
        ))
    }
}

/// The last line of a log, as far as the engine has it in one piece.
pub(super) async fn last_line(container: &KubernetesContainer) -> Result<Option<Bytes>> {
    let chunks = last_chunks(container).await?;
    Ok((!chunks.is_empty()).then(|| chunks.into_iter().flat_map(|chunk| chunk.bytes).collect()))
}

async fn last_chunks(container: &KubernetesContainer) -> Result<Vec<Chunk>> {
    let query = [
        ("container", CONTAINER.to_owned()),
        ("timestamps", "true".to_owned()),
        ("tailLines", "1".to_owned()),
    ];
    let body = container.shared.client.open_log(&container.pod_name, &query).await?;
    let mut lines = Lines::new(body);
    let last = match lines.next().await? {
        Some(line) => Some(line),
        None => lines.rest(),
    };
    let mut chunks = Vec::new();
    if let Some(last) = last {
        line::read(last, LogStream::Unknown, |chunk| chunks.push(chunk))?;
    }
    Ok(chunks)
}

/// The follower reads a file in which nothing comes any more.
fn moved() -> Error {
    Error::new(ErrorKind::Unavailable).with_message("the node has rotated the log")
}

/// Between a look at the pod and the question for its log the container can have come or gone. A
/// kubelet that has just begun knows none of its pods, and says so without naming one.
pub(super) fn mistaken(error: Error) -> Error {
    let words = error.message().unwrap_or_default().to_owned();
    let passes = match error.kind() {
        ErrorKind::InvalidArgument => true,
        ErrorKind::NotFound => words.contains("could not find the requested resource"),
        _ => false,
    };
    if !passes {
        return error;
    }
    Error::new(ErrorKind::Unavailable).with_message(words).with_source(error)
}

/// The second that a time is in: the kubelet cuts times to that.
fn whole_seconds(time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let time = Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.to_string())
}
