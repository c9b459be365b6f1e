//! The reader on a log that is read in turns while the engine throws away its oldest part.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use runtime_core::{
    Bytes, Chunk, ContainerStatus, Error, ErrorKind, Follow, LogOptions, LogStream, Result,
};

use super::{LogSource, OpenLog, Turn, read_log};

struct World {
    log: Vec<Chunk>,
    written: usize,
    /// How many chunks are written between two turns.
    step: usize,
    /// How many chunks the engine keeps.
    kept: usize,
    opens: Vec<OpenLog>,
    turns: Vec<Turn>,
}

#[derive(Clone)]
struct Rotating(Arc<Mutex<World>>);

impl Rotating {
    fn new(log: Vec<Chunk>, step: usize, kept: usize) -> Self {
        let (opens, turns) = (Vec::new(), Vec::new());
        Self(Arc::new(Mutex::new(World { log, written: step, step, kept, opens, turns })))
    }

    /// The text of what a follower gives, and the kind of the error that it ends with.
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
impl LogSource for Rotating {
    type Chunks = BoxStream<'static, Result<Chunk>>;

    async fn open(&self, from: OpenLog) -> Result<Self::Chunks> {
        let mut world = self.0.lock().unwrap();
        world.opens.push(from);
        let first = world.written.saturating_sub(world.kept);
        let log = world.log[first..world.written].iter();
        let mut chunks: Vec<_> =
            log.filter(|chunk| from.since.is_none_or(|since| chunk.time >= since)).collect();
        if let Some(tail) = from.tail {
            chunks.drain(..chunks.len().saturating_sub(usize::try_from(tail).unwrap()));
        }
        let chunks: Vec<_> = chunks.into_iter().cloned().map(Ok).collect();
        Ok(stream::iter(chunks).boxed())
    }

    async fn status(&self) -> Result<ContainerStatus> {
        let world = self.0.lock().unwrap();
        let running = world.written < world.log.len();
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
        let mut world = self.0.lock().unwrap();
        world.turns.push(last);
        world.written = (world.written + world.step).min(world.log.len());
    }

    fn thrown_away(&self, _: SystemTime) -> Option<Error> {
        Some(Error::new(ErrorKind::Lost))
    }
}

/// Lines at these distances, each in so many pieces that have the time of the first.
fn log(lines: u64, apart: Duration, pieces: u64) -> Vec<Chunk> {
    let at = |line: u32| UNIX_EPOCH + Duration::from_secs(1_700_000_000) + apart * line;
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
async fn lines_that_engine_still_has_come_once() {
    let millisecond = Duration::from_millis(1);
    for (lines, apart, pieces, step, kept) in [
        (5000, millisecond, 1, 100, 200),
        (5000, Duration::from_micros(10), 1, 700, 1000),
        (900, Duration::from_secs(60), 1, 1, 2),
        (300, millisecond, 7, 5, 40),
        (5000, millisecond, 1, 333, usize::MAX),
    ] {
        let log = log(lines, apart, pieces);
        let source = Rotating::new(log.clone(), step, kept);
        let case = format!("{lines} {pieces} {step} {kept}");
        assert_eq!(source.follow().await, (texts(&log), None), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn lines_that_engine_has_thrown_away_are_lost() {
    for (pieces, step, kept) in [(1, 100, 99), (1, 1500, 1000), (1, 1, 0), (7, 10, 9), (7, 70, 69)]
    {
        let log = log(3000, Duration::from_millis(1), pieces);
        let (given, error) = Rotating::new(log.clone(), step, kept).follow().await;
        let case = format!("{pieces} {step} {kept}");
        assert_eq!(error, (kept > 0).then_some(ErrorKind::Lost), "{case}");
        // Nothing is given in place of what is lost.
        let first = log.len().min(step).saturating_sub(kept) / usize::try_from(pieces).unwrap();
        let all = texts(&log);
        let from = all.iter().position(|text| Some(text) == given.first()).unwrap_or(first);
        assert!(pieces > 1 || all[from..].starts_with(&given), "{case}: {given:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn quiet_log_is_read_by_its_last_chunks() {
    let log = log(3000, Duration::from_millis(1), 1);
    let source = Rotating::new(log.clone(), 10, usize::MAX);
    assert_eq!(source.follow().await.0.len(), log.len());
    let world = source.0.lock().unwrap();
    let late = &world.opens[world.opens.len() - 20..];
    assert!(late.iter().all(|open| open.tail.is_some_and(|tail| tail <= 128)), "{late:?}");
    assert!(world.turns.iter().skip(1).all(|turn| turn.new == 10 && turn.dry == 0));
}
