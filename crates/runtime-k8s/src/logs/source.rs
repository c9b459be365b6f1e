//! A pod's log as a source that can be opened again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use k8s_openapi::jiff::Timestamp;
use runtime_core::{
    Chunk, ContainerStatus, Error, ErrorKind, ExitReason, LogStream, Operation, Result, async_trait,
};
use runtime_support::follow::{LogSource, OpenLog};
use tokio::time::Instant;

use super::ending::Ending;
use super::line;
use crate::container::KubernetesContainer;
use crate::info;
use crate::lines::Lines;
use crate::link::OpenBody;
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
/// that no file is rotated away in the meantime, also when one of the questions has no answer.
const SILENCE: Duration = Duration::from_secs(3);

/// How long a follower is silent when it has read all of the file that it has open: shorter than
/// what a reader waits for the rest of a container that has ended.
const DRAINED: Duration = Duration::from_millis(500);

/// A log shorter than this is not rotated: the kubelet's default is 10 MiB.
const SHORT: usize = 64 << 10;

/// How much of the end of a log is looked at.
const END: usize = 64 << 10;

/// What has been read over all opens.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    newest: Option<SystemTime>,
    /// When something last came, or was known to have come.
    at: Option<Instant>,
    /// Whether the file that was open is known to have been read to its end.
    drained: bool,
    /// The time of the last line when a log without follow was found to be cut off.
    target: Option<SystemTime>,
}

impl Progress {
    /// What can have been lost between this and a log that was `opened` then and begins with a chunk
    /// of the time `first`, or has none.
    ///
    /// If what was read before is not there any more, the log was rotated in between. If that can
    /// have been twice, what stood in the file between is gone; and of the file before only who has
    /// read it to its end has everything.
    fn gap(&self, first: Option<SystemTime>, opened: Instant) -> Option<Gap> {
        let newest = self.newest?;
        if first.is_some_and(|first| first <= newest) {
            return None;
        }
        if !self.is_within(opened) {
            return Some(Gap::File);
        }
        (first.is_some() && !self.drained).then_some(Gap::End)
    }

    /// Whether nothing can have been lost before a log that was `opened` then, wherever it begins.
    fn is_whole(&self, opened: Instant) -> bool {
        self.newest.is_none() || (self.drained && self.is_within(opened))
    }

    /// Whether the log can have been rotated only once since.
    fn is_within(&self, opened: Instant) -> bool {
        self.at.is_none_or(|at| opened.saturating_duration_since(at) < FILE_LIFE)
    }
}

/// What a rotation can have taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// A whole file: the log was not seen for longer than a file lives.
    File,
    /// The end of the file that was read.
    End,
}

impl Gap {
    fn error(self) -> Error {
        Error::new(ErrorKind::Lost).with_message(match self {
            Self::File => {
                "the log could not be read for so long that the node may have rotated it twice, and \
                 a part of it may be lost"
            }
            Self::End => {
                "the node has rotated the log while it could not be read, and a part of it may be \
                 lost"
            }
        })
    }
}

/// A followed log that is open from the beginning of its file, and since when.
type Opened = (OpenBody, Instant);

/// The log of a container.
pub(super) struct PodLog {
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
    pub(super) fn new(container: KubernetesContainer) -> Self {
        Self { container, progress: Arc::default(), next_file: Arc::default() }
    }

    fn stream(&self) -> LogStream {
        if self.container.tty { LogStream::Console } else { LogStream::Unknown }
    }
}

/// An open log.
struct Open {
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
        let container = &self.container;
        let next_file = lock(&self.next_file).take().filter(|_| from.follow && from.tail.is_none());
        let (body, opened) = match next_file {
            Some(opened) => opened,
            None => {
                let shared = &container.shared;
                let seen = shared.query(Operation::Logs, container.look()).await?;
                if state::started_at(&seen.pod).is_none() {
                    // Nothing was ever written. A follower comes again when it was started.
                    return Ok(Box::pin(futures_util::stream::empty()));
                }
                open(container, from).await?
            }
        };
        let before = *lock(&self.progress);
        let open = Open {
            container: container.clone(),
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
        let seen = self.container.shared.query(Operation::Logs, self.container.look()).await?;
        Ok(info::status(&seen.state))
    }

    async fn ended(&self) -> Result<()> {
        self.container.until_ended_whatever_comes().await.map(drop)
    }

    async fn ended_by_removal(&self) -> bool {
        match self.container.until_ended_whatever_comes().await {
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

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
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
        let last = last_chunks(&self.container);
        let last = match self.container.shared.query(Operation::Logs, last).await {
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
        if let Ok(opened) = open(&self.container, from).await {
            *lock(&self.next_file) = Some(opened);
        }
        Error::new(ErrorKind::Unavailable).with_message("the node has rotated the log")
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
        let seen = self.container.look().await?;
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

async fn open(container: &KubernetesContainer, from: OpenLog) -> Result<Opened> {
    let mut query = vec![("container", CONTAINER.to_owned()), ("timestamps", "true".to_owned())];
    if from.follow {
        query.push(("follow", "true".to_owned()));
    }
    if let Some(tail) = from.tail {
        query.push(("tailLines", tail.to_string()));
    }
    if let Some(since) = from.since.and_then(whole_seconds) {
        query.push(("sinceTime", since));
    }
    let shared = &container.shared;
    let open = shared.client.open_log(&container.pod_name, &query);
    let body = shared.query(Operation::Logs, open).await.map_err(mistaken)?;
    Ok((body, Instant::now()))
}

/// The last line of a log, as far as the engine has it in one piece; of a long one the end.
pub(super) async fn last_line(container: &KubernetesContainer) -> Result<Option<Bytes>> {
    let chunks = last_chunks(container).await?;
    Ok((!chunks.is_empty()).then(|| chunks.into_iter().flat_map(|chunk| chunk.bytes).collect()))
}

/// The last chunks of a log, all of one line.
async fn last_chunks(container: &KubernetesContainer) -> Result<VecDeque<Chunk>> {
    let query = [
        ("container", CONTAINER.to_owned()),
        ("timestamps", "true".to_owned()),
        ("tailLines", "1".to_owned()),
    ];
    let body = container.shared.client.open_log(&container.pod_name, &query).await?;
    let (mut lines, mut reader) = (Lines::new(body), line::Reader::new(LogStream::Unknown));
    let mut chunks = VecDeque::new();
    loop {
        let (part, is_all) = match lines.next_within(line::MOST).await? {
            Some(part) => {
                let is_all = part.ends_with(b"\n");
                (part, is_all)
            }
            None => match lines.rest() {
                None if !reader.is_in_line() => return Ok(chunks),
                rest => (rest.unwrap_or_default(), true),
            },
        };
        reader.read(part, is_all, |chunk| keep(&mut chunks, chunk))?;
        if is_all {
            return Ok(chunks);
        }
    }
}

/// Keeps the last chunks, as many as make up the end of a log.
fn keep(chunks: &mut VecDeque<Chunk>, chunk: Chunk) {
    chunks.push_back(chunk);
    let mut length: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    while let Some(first) = chunks.front()
        && length - first.bytes.len() >= END
    {
        length -= first.bytes.len();
        chunks.pop_front();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_before_has_to_be_there_or_to_have_ended() {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let read = Instant::now();
        let at_end =
            Progress { newest: Some(time(5)), at: Some(read), drained: true, target: None };
        let cut_off = Progress { drained: false, ..at_end };
        let (soon, late) = (read + Duration::from_secs(9), read + Duration::from_secs(10));
        for (before, opened, first, gap) in [
            // The same file.
            (cut_off, late, Some(4), None),
            (cut_off, late, Some(5), None),
            // The next file, and all of the one before was read.
            (at_end, soon, Some(6), None),
            // Who was cut off may not have had the end of it.
            (cut_off, soon, Some(6), Some(Gap::End)),
            // There may have been another between.
            (at_end, late, Some(6), Some(Gap::File)),
            // A file that is empty still.
            (at_end, soon, None, None),
            (cut_off, soon, None, None),
            (at_end, late, None, Some(Gap::File)),
            // Nothing was read before.
            (Progress::default(), late, Some(6), None),
            (Progress::default(), late, None, None),
        ] {
            let first = first.map(time);
            assert_eq!(before.gap(first, opened), gap, "{before:?} {first:?}");
        }
        assert!(at_end.is_whole(soon) && !at_end.is_whole(late) && !cut_off.is_whole(soon));
    }

    #[test]
    fn of_a_long_line_the_end_is_kept() {
        let chunk = |length| Chunk {
            time: SystemTime::UNIX_EPOCH,
            stream: LogStream::Unknown,
            bytes: vec![b'x'; length].into(),
            ends_line: false,
        };
        let mut chunks = VecDeque::new();
        for _ in 0..100 {
            keep(&mut chunks, chunk(16 << 10));
        }
        assert_eq!(chunks.len(), END / (16 << 10));
        keep(&mut chunks, chunk(2 * END));
        assert_eq!(chunks.len(), 1);
    }
}
