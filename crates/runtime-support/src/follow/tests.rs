//! Tests of the reader with a scripted source: no record is lost or repeated, wherever the log is
//! cut.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt};
use runtime_core::{
    Bytes, Chunk, ContainerStatus, Error, ErrorKind, Follow, LineJoiner, LogCursor, LogOptions,
    LogRecord, LogStream, Result,
};

use super::{LogSource, OpenLog, read_log};

mod cursor;
mod ending;
mod properties;
mod resume;

use LogStream::{Stderr, Stdout};

/// Behaviour of one open of the scripted log, after a number of chunks.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Refused,
    Broken(usize),
    /// The stream stays open after the available chunks.
    Stalled,
    /// A regular end, as from an engine that shuts down in order.
    Ended(usize),
}

#[derive(Debug)]
struct SourceState {
    log: Vec<Chunk>,
    /// Behaviour of the following opens. The container has ended when the script is empty.
    script: VecDeque<Cut>,
    /// The last follower's stream stays open, as engines occasionally leave it.
    stalls: bool,
    /// Number of last chunks that are returned only without follow, as by Docker 20.10 for a
    /// container that ends directly after writing.
    ahead: usize,
    /// All pieces of a line have the time of the first.
    shared_times: bool,
    /// The reader has to find its position again.
    requires_position: bool,
    /// Resolution of the timestamps.
    unit: Duration,
    /// Number of status requests that return `Created`.
    created: usize,
    /// Status returned after a regular end: an error while the engine is down, or `Running`.
    closed: Option<Result<ContainerStatus>>,
    opens: Vec<OpenLog>,
    open_now: usize,
    running: tokio::sync::watch::Sender<bool>,
}

#[derive(Debug, Clone)]
struct FakeSource(Arc<Mutex<SourceState>>);

impl FakeSource {
    fn new(log: Vec<Chunk>, script: impl IntoIterator<Item = Cut>) -> Self {
        Self(Arc::new(Mutex::new(SourceState {
            log,
            script: script.into_iter().collect(),
            stalls: false,
            ahead: 0,
            shared_times: true,
            requires_position: true,
            unit: Duration::from_nanos(1),
            created: 0,
            closed: None,
            opens: Vec::new(),
            open_now: 0,
            running: tokio::sync::watch::Sender::new(true),
        })))
    }

    fn with(self, change: impl FnOnce(&mut SourceState)) -> Self {
        change(&mut self.0.lock().unwrap());
        self
    }
}

struct Chunks {
    state: FakeSource,
    chunks: VecDeque<Chunk>,
    end: End,
}

enum End {
    Broken,
    Clean,
    Never,
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.state.0.lock().unwrap().open_now -= 1;
    }
}

impl Stream for Chunks {
    type Item = Result<Chunk>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(chunk) = self.chunks.pop_front() {
            return Poll::Ready(Some(Ok(chunk)));
        }
        match self.end {
            End::Broken => Poll::Ready(Some(Err(Error::new(ErrorKind::Unavailable)))),
            End::Clean => Poll::Ready(None),
            End::Never => Poll::Pending,
        }
    }
}

#[runtime_core::async_trait]
impl LogSource for FakeSource {
    type Chunks = Chunks;

    async fn open(&self, from: OpenLog) -> Result<Chunks> {
        tokio::task::yield_now().await;
        let mut state = self.0.lock().unwrap();
        state.opens.push(from);
        if state.created > 0 {
            state.open_now += 1;
            return Ok(Chunks { state: self.clone(), chunks: VecDeque::new(), end: End::Clean });
        }
        let mut chunks: Vec<Chunk> =
            state.log.iter().filter(|c| from.since.is_none_or(|s| c.time >= s)).cloned().collect();
        if let Some(tail) = from.tail {
            chunks.drain(..chunks.len().saturating_sub(usize::try_from(tail).unwrap()));
        }
        if state.script.is_empty() {
            state.running.send_replace(false);
            let ahead = if from.follow { state.ahead } else { 0 };
            chunks.truncate(chunks.len().saturating_sub(ahead));
        }
        let end = match state.script.pop_front() {
            Some(Cut::Refused) => return Err(Error::new(ErrorKind::Unavailable)),
            Some(Cut::Broken(at)) => {
                chunks.truncate(at);
                End::Broken
            }
            Some(Cut::Stalled) => End::Never,
            Some(Cut::Ended(at)) if from.follow => {
                chunks.truncate(at);
                state.closed = Some(if at % 2 == 0 {
                    Ok(ContainerStatus::Running)
                } else {
                    Err(Error::new(ErrorKind::Unavailable))
                });
                End::Clean
            }
            None if from.follow && state.stalls => End::Never,
            Some(Cut::Ended(_)) | None => End::Clean,
        };
        state.open_now += 1;
        Ok(Chunks { state: self.clone(), chunks: chunks.into(), end })
    }

    async fn status(&self) -> Result<ContainerStatus> {
        let mut state = self.0.lock().unwrap();
        if state.created > 0 {
            state.created -= 1;
            return Ok(ContainerStatus::Created);
        }
        if let Some(answer) = state.closed.take() {
            return answer;
        }
        let running = !state.script.is_empty();
        Ok(if running { ContainerStatus::Running } else { ContainerStatus::Exited })
    }

    async fn ended(&self) -> Result<()> {
        let mut running = self.0.lock().unwrap().running.subscribe();
        let _ = running.wait_for(|running| !running).await;
        Ok(())
    }

    fn open_since(&self, time: SystemTime) -> Option<SystemTime> {
        self.0.lock().unwrap().shared_times.then_some(time)
    }

    fn has_tail(&self) -> bool {
        self.0.lock().unwrap().shared_times
    }

    fn resolution(&self) -> Duration {
        self.0.lock().unwrap().unit
    }

    fn thrown_away(&self, _: SystemTime) -> Option<Error> {
        self.0.lock().unwrap().requires_position.then(|| Error::new(ErrorKind::Lost))
    }
}

fn at(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_nanos(nanos)
}

fn chunk(nanos: u64, stream: LogStream, text: &str) -> Chunk {
    Chunk {
        time: at(nanos),
        stream,
        bytes: Bytes::from(text.to_owned()),
        ends_line: text.ends_with('\n'),
    }
}

fn join(max_line: usize, log: &[Chunk]) -> Vec<LogRecord> {
    let mut joiner = LineJoiner::new(max_line);
    let mut records = Vec::new();
    for chunk in log {
        joiner.push(chunk.clone());
        records.extend(std::iter::from_fn(|| joiner.pop()));
    }
    joiner.finish();
    records.extend(std::iter::from_fn(|| joiner.pop()));
    records
}

type Record = (SystemTime, Bytes, bool);

/// Groups records by stream, because records of different streams have no fixed order while a line
/// is unfinished.
fn by_stream(records: &[LogRecord]) -> [Vec<Record>; 4] {
    let mut streams: [Vec<Record>; 4] = Default::default();
    for LogRecord { time, stream, bytes, continues, .. } in records {
        streams[*stream as usize].push((*time, bytes.clone(), *continues));
    }
    streams
}

async fn read(source: FakeSource, options: LogOptions) -> Result<Vec<LogRecord>> {
    let mut records = Vec::new();
    let mut reader = read_log(source, options).await?;
    while let Some(record) = reader.next().await {
        records.push(record?);
    }
    Ok(records)
}

/// Runs a future on a paused clock, which advances when all tasks are idle.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(24 * 3600), future)
                .await
                .expect("the future does not complete")
        })
}

fn follow() -> LogOptions {
    LogOptions::default().follow(Follow::Yes)
}
