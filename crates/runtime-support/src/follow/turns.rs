//! Tests of a reader that polls a log while the engine discards its oldest part.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use runtime_core::{
    Bytes, Chunk, ContainerStatus, Error, ErrorKind, Follow, LogOptions, LogStream, Result,
};

use super::{LogSource, OpenLog, Turn, read_log};

struct RotatingLog {
    log: Vec<Chunk>,
    written: usize,
    /// Number of chunks written between two turns.
    step: usize,
    /// Number of chunks that the engine keeps.
    kept: usize,
    opens: Vec<OpenLog>,
    turns: Vec<Turn>,
}

#[derive(Clone)]
struct RotatingSource(Arc<Mutex<RotatingLog>>);

impl RotatingSource {
    fn new(log: Vec<Chunk>, step: usize, kept: usize) -> Self {
        let (opens, turns) = (Vec::new(), Vec::new());
        Self(Arc::new(Mutex::new(RotatingLog { log, written: step, step, kept, opens, turns })))
    }

    /// Returns the text of a follower's records, and the kind of its final error.
    async fn follow(&self) -> (Vec<String>, Option<ErrorKind>) {
        let options = LogOptions::default().follow(Follow::Yes);
        let mut records = read_log(self.clone(), options).await.unwrap();
        let mut texts = Vec::new();
        while let Some(record) = records.next().await {
            match record {
                Ok(record) => texts.push(String::from_utf8_lossy(&record.bytes).into_owned()),
                Err(error) => return (texts, Some(error.kind())),
            }
        }
        (texts, None)
    }
}

#[runtime_core::async_trait]
impl LogSource for RotatingSource {
    type Chunks = BoxStream<'static, Result<Chunk>>;

    async fn open(&self, from: OpenLog) -> Result<Self::Chunks> {
        let mut state = self.0.lock().unwrap();
        state.opens.push(from);
        let first = state.written.saturating_sub(state.kept);
        let log = state.log[first..state.written].iter();
        let mut chunks: Vec<_> =
            log.filter(|chunk| from.since.is_none_or(|since| chunk.time >= since)).collect();
        if let Some(tail) = from.tail {
            chunks.drain(..chunks.len().saturating_sub(usize::try_from(tail).unwrap()));
        }
        let chunks: Vec<_> = chunks.into_iter().cloned().map(Ok).collect();
        Ok(stream::iter(chunks).boxed())
    }

    async fn status(&self) -> Result<ContainerStatus> {
        let state = self.0.lock().unwrap();
        let running = state.written < state.log.len();
        Ok(if running { ContainerStatus::Running } else { ContainerStatus::Exited })
    }

    async fn ended(&self) -> Result<()> {
        std::future::pending().await
    }

    fn open_since(&self, time: SystemTime) -> Option<SystemTime> {
        Some(time)
    }

    fn has_tail(&self) -> bool {
        true
    }

    fn follows(&self) -> bool {
        false
    }

    async fn changed(&self, last: Turn) {
        tokio::time::sleep(last.pause()).await;
        let mut state = self.0.lock().unwrap();
        state.turns.push(last);
        state.written = (state.written + state.step).min(state.log.len());
    }

    fn thrown_away(&self, _: SystemTime) -> Option<Error> {
        Some(Error::new(ErrorKind::Lost))
    }
}

/// Creates lines at these distances, each in `pieces` chunks with the time of the first.
fn log(lines: u64, distance: Duration, pieces: u64) -> Vec<Chunk> {
    let at = |line: u32| UNIX_EPOCH + Duration::from_secs(1_700_000_000) + distance * line;
    (0..lines)
        .flat_map(|line| (1..=pieces).map(move |piece| (line, piece)))
        .map(|(line, piece)| Chunk {
            time: at(u32::try_from(line).unwrap()),
            stream: LogStream::Stdout,
            bytes: Bytes::from(format!(
                "{line}.{piece};{}",
                if piece == pieces { "\n" } else { "" }
            )),
            ends_line: piece == pieces,
        })
        .collect()
}

fn texts(log: &[Chunk]) -> Vec<String> {
    let all = log.iter().map(|chunk| String::from_utf8_lossy(&chunk.bytes)).collect::<String>();
    all.split_inclusive('\n').map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn poll_returns_existing_lines_once() {
    let millisecond = Duration::from_millis(1);
    for (lines, distance, pieces, step, kept) in [
        (5000, millisecond, 1, 100, 200),
        (5000, Duration::from_micros(10), 1, 700, 1000),
        (900, Duration::from_secs(60), 1, 1, 2),
        (300, millisecond, 7, 5, 40),
        (5000, millisecond, 1, 333, usize::MAX),
    ] {
        let log = log(lines, distance, pieces);
        let source = RotatingSource::new(log.clone(), step, kept);
        let case = format!("{lines} {pieces} {step} {kept}");
        assert_eq!(source.follow().await, (texts(&log), None), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn poll_after_discarded_chunks_returns_lost() {
    for (pieces, step, kept) in [(1, 100, 99), (1, 1500, 1000), (1, 1, 0), (7, 10, 9), (7, 70, 69)]
    {
        let log = log(3000, Duration::from_millis(1), pieces);
        let (returned, error) = RotatingSource::new(log.clone(), step, kept).follow().await;
        let case = format!("{pieces} {step} {kept}");
        assert_eq!(error, (kept > 0).then_some(ErrorKind::Lost), "{case}");
        // No wrong line is returned in place of a lost one.
        let first = log.len().min(step).saturating_sub(kept) / usize::try_from(pieces).unwrap();
        let all = texts(&log);
        let from = all.iter().position(|text| Some(text) == returned.first()).unwrap_or(first);
        assert!(pieces > 1 || all[from..].starts_with(&returned), "{case}: {returned:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn poll_of_slow_log_requests_last_chunks() {
    let log = log(3000, Duration::from_millis(1), 1);
    let source = RotatingSource::new(log.clone(), 10, usize::MAX);
    assert_eq!(source.follow().await.0.len(), log.len());
    let state = source.0.lock().unwrap();
    let late = &state.opens[state.opens.len() - 20..];
    assert!(late.iter().all(|open| open.tail.is_some_and(|tail| tail <= 128)), "{late:?}");
    assert!(state.turns.iter().skip(1).all(|turn| turn.new == 10 && turn.dry == 0));
}
