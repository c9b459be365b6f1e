//! The reader on a scripted source: whatever is cut where, no record is lost or doubled.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt};
use proptest::prelude::*;
use runtime_core::{
    Bytes, Chunk, ContainerStatus, Error, ErrorKind, Follow, LineJoiner, LogCursor, LogOptions,
    LogRecord, LogStream, Result,
};

use super::{LogSource, OpenLog, read_log};
mod ending;

/// How one open of the scripted log goes, after so many chunks.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Refused,
    Broken(usize),
    /// It stands still after what is there.
    Stalled,
    /// As an engine does that closes its connections in order.
    Ended(usize),
}

#[derive(Debug)]
struct World {
    log: Vec<Chunk>,
    /// What happens to the opens that follow. Once it is empty the container has ended.
    script: VecDeque<Cut>,
    /// Whether the last follower is left without an end, as engines do at times.
    stalls: bool,
    /// So many of the last chunks are only given without following, as Docker 20.10 does when a
    /// container ends just after it has written.
    ahead: usize,
    /// Whether the pieces of a line carry the time of the first.
    shared_times: bool,
    /// Whether a reader has to find its place again.
    keeps_place: bool,
    /// The unit of the times.
    unit: Duration,
    /// So many questions are answered with "created".
    created: usize,
    /// An engine that has closed its connections in order does not answer for a while, or the
    /// container runs on.
    closed: Option<Result<ContainerStatus>>,
    opens: Vec<OpenLog>,
    open_now: usize,
    running: tokio::sync::watch::Sender<bool>,
}

#[derive(Debug, Clone)]
struct Fake(Arc<Mutex<World>>);

impl Fake {
    fn new(log: Vec<Chunk>, script: impl IntoIterator<Item = Cut>) -> Self {
        Self(Arc::new(Mutex::new(World {
            log,
            script: script.into_iter().collect(),
            stalls: false,
            ahead: 0,
            shared_times: true,
            keeps_place: true,
            unit: Duration::from_nanos(1),
            created: 0,
            closed: None,
            opens: Vec::new(),
            open_now: 0,
            running: tokio::sync::watch::Sender::new(true),
        })))
    }

    fn with(self, change: impl FnOnce(&mut World)) -> Self {
        change(&mut self.0.lock().unwrap());
        self
    }
}

struct Chunks {
    world: Fake,
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
        self.world.0.lock().unwrap().open_now -= 1;
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
impl LogSource for Fake {
    type Chunks = Chunks;

    async fn open(&self, from: OpenLog) -> Result<Chunks> {
        tokio::task::yield_now().await;
        let mut world = self.0.lock().unwrap();
        world.opens.push(from);
        if world.created > 0 {
            world.open_now += 1;
            return Ok(Chunks { world: self.clone(), chunks: VecDeque::new(), end: End::Clean });
        }
        let mut chunks: Vec<Chunk> =
            world.log.iter().filter(|c| from.since.is_none_or(|s| c.time >= s)).cloned().collect();
        if let Some(tail) = from.tail {
            chunks.drain(..chunks.len().saturating_sub(usize::try_from(tail).unwrap()));
        }
        if world.script.is_empty() {
            world.running.send_replace(false);
            let ahead = if from.follow { world.ahead } else { 0 };
            chunks.truncate(chunks.len().saturating_sub(ahead));
        }
        let end = match world.script.pop_front() {
            Some(Cut::Refused) => return Err(Error::new(ErrorKind::Unavailable)),
            Some(Cut::Broken(at)) => {
                chunks.truncate(at);
                End::Broken
            }
            Some(Cut::Stalled) => End::Never,
            Some(Cut::Ended(at)) if from.follow => {
                chunks.truncate(at);
                world.closed = Some(if at % 2 == 0 {
                    Ok(ContainerStatus::Running)
                } else {
                    Err(Error::new(ErrorKind::Unavailable))
                });
                End::Clean
            }
            None if from.follow && world.stalls => End::Never,
            Some(Cut::Ended(_)) | None => End::Clean,
        };
        world.open_now += 1;
        Ok(Chunks { world: self.clone(), chunks: chunks.into(), end })
    }

    async fn status(&self) -> Result<ContainerStatus> {
        let mut world = self.0.lock().unwrap();
        if world.created > 0 {
            world.created -= 1;
            return Ok(ContainerStatus::Created);
        }
        if let Some(answer) = world.closed.take() {
            return answer;
        }
        let running = !world.script.is_empty();
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
        self.0.lock().unwrap().keeps_place.then(|| Error::new(ErrorKind::Lost))
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

/// As [`join`], with lines that overtake unfinished ones after some of the chunks.
fn join_and_pass(max_line: usize, log: &[Chunk], passes: u64) -> Vec<LogRecord> {
    let mut joiner = LineJoiner::new(max_line);
    let mut records = Vec::new();
    for (at, chunk) in log.iter().enumerate() {
        joiner.push(chunk.clone());
        if passes >> (at % 64) & 1 == 1 {
            joiner.let_pass();
        }
        records.extend(std::iter::from_fn(|| joiner.pop()));
    }
    joiner.finish();
    records.extend(std::iter::from_fn(|| joiner.pop()));
    records
}

type Record = (SystemTime, Bytes, bool);

/// The records of each stream, which have an order. Records of different streams have none while
/// a line is unfinished.
fn by_stream(records: &[LogRecord]) -> [Vec<Record>; 4] {
    let mut streams: [Vec<Record>; 4] = Default::default();
    for LogRecord { time, stream, bytes, continues, .. } in records {
        streams[*stream as usize].push((*time, bytes.clone(), *continues));
    }
    streams
}

async fn read(source: Fake, options: LogOptions) -> Result<Vec<LogRecord>> {
    let mut records = Vec::new();
    let mut reader = read_log(source, options).await?;
    while let Some(record) = reader.next().await {
        records.push(record?);
    }
    Ok(records)
}

/// On a clock that runs ahead when there is nothing else to do.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(24 * 3600), future)
                .await
                .expect("it does not come to an end")
        })
}

fn follow() -> LogOptions {
    LogOptions::default().follow(Follow::Yes)
}

/// The lines of a log: which stream, in how many pieces, and how long after the piece before.
fn logs(shared_times: bool) -> impl Strategy<Value = Vec<Chunk>> {
    let gap = prop_oneof![
        8 => 0..3_u64,
        2 => Just(50),
        1 => Just(150_000_000),
        1 => Just(2_500_000_000),
    ];
    // Which streams go on at each step, and whether equal times or times in disorder are made:
    // with both, a cursor has two meanings.
    let steps = prop::collection::vec((any::<bool>(), 0..4_u8, gap, 0..4_u64), 0..40);
    (steps, any::<bool>()).prop_map(move |(steps, equal)| {
        let mut clock = 1_000;
        let mut streams = [(0, false); 2];
        let mut log = Vec::new();
        for (number, (err, ends, gap, early)) in steps.into_iter().enumerate() {
            clock += gap + u64::from(!equal);
            let (last, in_line) = &mut streams[usize::from(err)];
            let time = if shared_times && *in_line {
                *last
            } else if equal {
                clock.max(*last)
            } else {
                (10 * (clock - early) + u64::from(err)).max(*last + 10)
            };
            *last = time;
            *in_line = ends == 0;
            let stream = if err { LogStream::Stderr } else { LogStream::Stdout };
            log.push(chunk(
                time,
                stream,
                &format!("{number}{}", if ends == 0 { "" } else { "\n" }),
            ));
        }
        log
    })
}

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let cut = prop_oneof![
        Just(Cut::Refused),
        (0..40_usize).prop_map(Cut::Broken),
        (0..40_usize).prop_map(Cut::Ended),
    ];
    // The first open is not refused: that is an error of the call.
    ((0..40_usize).prop_map(Cut::Broken), prop::collection::vec(cut, 0..6)).prop_map(
        |(first, mut rest)| {
            rest.insert(0, first);
            rest
        },
    )
}

fn case() -> impl Strategy<Value = (bool, Vec<Chunk>, Vec<Cut>, bool)> {
    any::<bool>().prop_flat_map(|shared| (Just(shared), logs(shared), cuts(), any::<bool>()))
}

proptest! {
    #[test]
    fn a_follower_gives_every_record_once((shared, log, cuts, stalls) in case(), max in 1..40_usize) {
        let source = Fake::new(log.clone(), cuts).with(|world| {
            world.shared_times = shared;
            world.stalls = stalls;
        });
        let records = run(read(source.clone(), follow().max_line(max))).unwrap();
        prop_assert_eq!(by_stream(&records), by_stream(&join(max, &log)));
        prop_assert_eq!(source.0.lock().unwrap().open_now, 0);
    }

    #[test]
    fn since_is_inclusive((shared, log, cuts, stalls) in case(), pick in any::<prop::sample::Index>()) {
        let all = join(1000, &log);
        prop_assume!(!all.is_empty());
        let since = pick.get(&all).time;
        let source = Fake::new(log, cuts).with(|world| {
            world.shared_times = shared;
            world.stalls = stalls;
        });
        let records = run(read(source, follow().since(since))).unwrap();
        let wanted: Vec<_> = all.into_iter().filter(|record| record.time >= since).collect();
        prop_assert_eq!(by_stream(&records), by_stream(&wanted));
    }

    #[test]
    fn a_cursor_goes_on_where_it_stood((shared, log, cuts, stalls) in case()) {
        let all = join(1000, &log);
        let mut cursor = None;
        for (number, record) in all.iter().enumerate() {
            cursor = Some(LogCursor::advance(cursor, record));
            let source = Fake::new(log.clone(), cuts.clone()).with(|world| {
                world.shared_times = shared;
                world.stalls = stalls;
            });
            let records = run(read(source, follow().after(cursor.unwrap()))).unwrap();
            let (records, wanted) = (by_stream(&records), by_stream(&all[number + 1..]));
            prop_assert_eq!(records, wanted, "after {:?}", cursor);
        }
    }

    #[test]
    fn cursor_resumes_at_every_record_of_overtaken_lines(
        (shared, log, cuts, stalls) in case(), max in 1..12_usize, passes in any::<u64>(),
        pick in any::<prop::sample::Index>(),
    ) {
        // Streams with records of one time can be overtaken in ways that a cursor does not tell apart.
        let times = |stream| log.iter().filter(move |c| c.stream == stream).map(|c| c.time);
        prop_assume!(!times(Stdout).any(|time| times(Stderr).any(|other| other == time)));
        let all = join_and_pass(max, &log, passes);
        prop_assume!(!all.is_empty());
        let given = pick.index(all.len()) + 1;
        let records = all[..given].iter();
        let mut last = records.fold(None, |cursor, record| Some(LogCursor::advance(cursor, record)));
        let cursor = last;
        let source = |cuts| {
            Fake::new(log.clone(), cuts).with(|world| {
                world.shared_times = shared;
                world.stalls = stalls;
            })
        };
        let options = follow().max_line(max).after(cursor.unwrap());
        let mut records = Vec::new();
        run(async {
            let mut reader = read_log(source(cuts), options).await.unwrap();
            while let Some(record) = reader.next().await {
                records.push(record.unwrap());
                last = reader.cursor();
            }
        });
        let (records, wanted) = (by_stream(&records), by_stream(&all[given..]));
        prop_assert_eq!(records, wanted, "after {:?} of {:#?}", cursor, all);
        // Nothing is left after the last one, however the records came.
        let options = LogOptions::default().max_line(max).after(last.unwrap());
        prop_assert_eq!(run(read(source(Vec::new()), options)).unwrap(), [], "after {:?}", last);
    }

    #[test]
    fn the_tail_counts_records(
        (shared, log, cuts, stalls) in case(), wanted in 0..50_u64, ended in any::<bool>(),
    ) {
        let all = join(1000, &log);
        let last = all.len().saturating_sub(usize::try_from(wanted).unwrap());
        let source = Fake::new(log.clone(), []).with(|world| world.shared_times = shared);
        let records = run(read(source, LogOptions::default().tail(wanted))).unwrap();
        prop_assert_eq!(&records[..], &all[last..]);

        // Of a running container the unfinished lines are no records yet, and come later.
        let cuts = if ended { Vec::new() } else { cuts };
        let whole = log.iter().rev().take_while(|chunk| !chunk.ends_line).count();
        prop_assume!(ended || whole == 0);
        let source = Fake::new(log, cuts).with(|world| {
            world.shared_times = shared;
            world.stalls = stalls;
        });
        let records = run(read(source, follow().tail(wanted))).unwrap();
        let (given, tail) = (by_stream(&records), by_stream(&all[last..]));
        let mut pairs = given.iter().zip(&tail);
        prop_assert!(pairs.all(|(given, tail)| given.ends_with(tail)), "{:?} {:?}", given, tail);
        prop_assert!(ended == (records.len() == all.len() - last) || !ended);
    }
}

use LogStream::{Stderr, Stdout};

#[test]
fn lines_behind_a_progress_bar_wait_for_a_bounded_time() {
    let log = vec![chunk(1, Stdout, "one\n"), chunk(2, Stderr, "\r50%"), chunk(3, Stdout, "two\n")];
    // The container runs on, and the followed log stands still.
    let source = Fake::new(log.clone(), [Cut::Stalled, Cut::Ended(3)]);
    run(async {
        let mut reader = read_log(source.clone(), follow()).await.unwrap();
        let start = tokio::time::Instant::now();
        assert_eq!(reader.next().await.unwrap().unwrap().bytes, "one\n");
        assert_eq!(reader.next().await.unwrap().unwrap().bytes, "two\n");
        assert!(start.elapsed() <= Duration::from_secs(1), "{:?}", start.elapsed());
        // The place of the bar is in the cursor.
        let cursor = reader.cursor().unwrap();
        source.0.lock().unwrap().script.clear();
        let rest = read(source, LogOptions::default().after(cursor)).await.unwrap();
        assert_eq!(by_stream(&rest), by_stream(&join(100, &log[1..2])));
    });
}

#[test]
fn cursor_after_an_overtaken_line_returns_only_what_follows() {
    let mut log = vec![chunk(1, Stdout, "prompt")];
    log.extend((2..30_012).map(|n| chunk(n, Stderr, "a line\n")));
    // As Docker does, with the time of the first piece.
    log.push(chunk(1, Stdout, " end\n"));
    log.push(chunk(30_012, Stderr, "last\n"));
    let source = Fake::new(log.clone(), []);
    let options = LogOptions::default().max_line(1000);
    run(async {
        let mut reader = read_log(source.clone(), options.clone()).await.unwrap();
        let mut given = 0;
        while let Some(record) = reader.next().await {
            given += 1;
            if record.unwrap().stream == Stdout || given % 10_000 == 0 {
                let after = options.clone().after(reader.cursor().unwrap());
                let rest = read(source.clone(), after).await.unwrap();
                assert_eq!(rest.len(), log.len() - 1 - given, "{:?}", reader.cursor());
            }
        }
        assert_eq!(given, log.len() - 1);
    });
}

#[test]
fn a_follower_of_a_created_container_waits_for_its_start() {
    let log = vec![chunk(1, Stdout, "one\n"), chunk(2, Stderr, "two\n")];
    let source = Fake::new(log.clone(), []).with(|world| world.created = 7);
    let records = run(read(source, follow())).unwrap();
    assert_eq!(records, join(1000, &log));
}

#[test]
fn an_unfinished_line_of_a_running_container_is_no_record_yet() {
    let log = vec![chunk(1, Stdout, "one\n"), chunk(2, Stdout, "tw")];
    let running = Fake::new(log.clone(), [Cut::Ended(9), Cut::Ended(9)]);
    let records = run(read(running, LogOptions::default())).unwrap();
    assert_eq!(records, join(1000, &log[..1]));
    let ended = Fake::new(log.clone(), []);
    assert_eq!(run(read(ended, LogOptions::default())).unwrap(), join(1000, &log));
}

#[test]
fn what_was_rotated_away_is_lost_or_gone_over() {
    let log: Vec<_> = (0..20).map(|n| chunk(n, Stdout, &format!("{n}\n"))).collect();
    for keeps_place in [true, false] {
        let source = Fake::new(log.clone(), [Cut::Broken(10), Cut::Ended(20)])
            .with(|world| world.keeps_place = keeps_place);
        run(async {
            let mut reader = read_log(source.clone(), follow()).await.unwrap();
            for record in &join(1000, &log)[..10] {
                assert_eq!(reader.next().await.unwrap().unwrap(), *record);
            }
            source.0.lock().unwrap().log.drain(..12);
            if keeps_place {
                let error = reader.next().await.unwrap().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Lost);
            } else {
                for record in &join(1000, &log)[12..] {
                    assert_eq!(reader.next().await.unwrap().unwrap(), *record);
                }
            }
            assert!(reader.next().await.is_none());
            assert_eq!(source.0.lock().unwrap().open_now, 0);
        });
    }
}

#[test]
fn what_was_rotated_away_before_the_place_is_not_missed() {
    let log: Vec<_> = (0..20).map(|n| chunk(n, Stdout, &format!("{n}\n"))).collect();
    // All that was read is gone, but nothing has come since; or the last that was read is there.
    for (log_now, more) in [(&log[..0], &log[..0]), (&log[9..], &log[10..])] {
        let source = Fake::new(log[..10].to_vec(), [Cut::Broken(10), Cut::Ended(20)]);
        run(async {
            let mut reader = read_log(source.clone(), follow()).await.unwrap();
            for record in &join(1000, &log)[..10] {
                assert_eq!(reader.next().await.unwrap().unwrap(), *record);
            }
            source.0.lock().unwrap().log = log_now.to_vec();
            for record in join(1000, more) {
                assert_eq!(reader.next().await.unwrap().unwrap(), record);
            }
            assert!(reader.next().await.is_none());
        });
    }
}

#[test]
fn what_was_rotated_away_within_a_line_is_not_put_together() {
    let log = vec![chunk(1, Stdout, "one\n"), chunk(2, Stdout, "begin")];
    let source = Fake::new(log, [Cut::Broken(2), Cut::Ended(20)]);
    run(async {
        let mut reader = read_log(source.clone(), follow()).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().bytes, "one\n");
        source.0.lock().unwrap().log = vec![chunk(9, Stdout, "end\n")];
        assert_eq!(reader.next().await.unwrap().unwrap_err().kind(), ErrorKind::Lost);
        assert!(reader.next().await.is_none());
    });
}

#[test]
fn a_cursor_whose_record_is_gone_is_lost_or_begins_with_what_is_there() {
    let log = vec![chunk(5, Stdout, "5\n"), chunk(6, Stdout, "6\n")];
    let gone = LogCursor::new(at(4), 2);
    for cuts in [vec![], vec![Cut::Ended(2), Cut::Ended(2)]] {
        let source = |keeps_place| {
            Fake::new(log.clone(), cuts.clone()).with(|world| {
                world.stalls = true;
                world.keeps_place = keeps_place;
            })
        };
        assert_eq!(run(read(source(false), follow().after(gone))).unwrap(), join(1000, &log));
        let lost = run(read(source(true), follow().after(gone))).unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Lost);
    }
    let source = Fake::new(log.clone(), []);
    let lost = run(read(source, LogOptions::default().after(gone))).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Lost);
}

#[test]
fn a_cursor_is_not_lost_where_nothing_is() {
    let log = [chunk(5, Stdout, "a long line\n"), chunk(6, Stdout, "6\n")];
    let after = |records, unit, log: &[Chunk]| {
        let source = Fake::new(log.to_vec(), []).with(|world| world.unit = unit);
        let cursor = LogCursor::new(at(5), records);
        run(read(source, LogOptions::default().after(cursor)))
    };
    let (nano, second) = (Duration::from_nanos(1), Duration::from_secs(1));
    let last = || join(1000, &log[1..]);
    // Before the first record of its time; or the log has nothing after it.
    assert_eq!(after(0, nano, &log[1..]).unwrap(), last());
    assert_eq!(after(1, nano, &[]).unwrap(), []);
    assert_eq!(after(2, second, &log[..1]).unwrap(), []);
    // The line was given in more pieces. A whole second may have lost some of its lines.
    assert_eq!(after(3, nano, &log).unwrap(), last());
    assert_eq!(after(3, second, &log).unwrap_err().kind(), ErrorKind::Lost);
}

#[test]
fn a_cursor_counts_what_the_tail_left_out() {
    let second = 1_000_000_000;
    let line = |seconds, text| chunk(seconds * second, Stdout, text);
    let log = [line(1, "a\n"), line(2, "b\n"), line(2, "c\n"), line(2, "d\n")];
    for shared_times in [true, false] {
        for (tail, records) in [(1, [3].as_slice()), (2, &[2, 3]), (3, &[1, 2, 3])] {
            let source = Fake::new(log.to_vec(), []).with(|world| {
                world.shared_times = shared_times;
                world.unit = Duration::from_nanos(second);
            });
            run(async {
                let options = LogOptions::default().tail(tail);
                let mut reader = read_log(source.clone(), options).await.unwrap();
                assert_eq!(reader.cursor(), None);
                for records in records {
                    reader.next().await.unwrap().unwrap();
                    let cursor = LogCursor::new(at(2 * second), *records);
                    assert_eq!(reader.cursor(), Some(cursor));
                }
                let after = LogOptions::default().after(reader.cursor().unwrap());
                assert_eq!(read(source, after).await.unwrap(), []);
            });
        }
    }
    // What comes later than the tail begins to count anew.
    let log = [line(1, "a\n"), line(1, "b\n"), line(2, "c\n")];
    run(async {
        let source = Fake::new(log.to_vec(), []);
        let mut reader = read_log(source, LogOptions::default().tail(1)).await.unwrap();
        reader.next().await.unwrap().unwrap();
        assert_eq!(reader.cursor(), Some(LogCursor::new(at(2 * second), 1)));
    });
}

#[test]
fn a_small_tail_of_a_long_log_reads_little_of_it() {
    let mut log: Vec<_> = (0..100_000).map(|n| chunk(n * 1_000_000, Stdout, "line\n")).collect();
    log.push(chunk(100_000_000_000, Stderr, "the end\n"));
    let source = Fake::new(log.clone(), []);
    let records = run(read(source.clone(), LogOptions::default().tail(10))).unwrap();
    assert_eq!(records, join(1000, &log)[log.len() - 10..]);
    let opens: Vec<_> = source.0.lock().unwrap().opens.iter().map(|open| open.tail).collect();
    // Only a longer look back shows that the one line on standard error has no beginning before.
    assert_eq!(opens, [Some(18), Some(144)]);
}

#[test]
fn the_first_refusal_is_an_error_of_the_call_and_other_errors_end_the_log() {
    let refused = Fake::new(Vec::new(), [Cut::Refused, Cut::Ended(0)]);
    let error = run(read(refused, follow())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);

    let log = vec![chunk(1, Stdout, "one\n"), chunk(2, Stdout, "two\n")];
    let broken = Fake::new(log.clone(), [Cut::Broken(1), Cut::Ended(2)]);
    run(async {
        let mut reader = read_log(broken.clone(), LogOptions::default()).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), join(1000, &log)[0]);
        assert_eq!(reader.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(reader.next().await.is_none());
        assert_eq!(broken.0.lock().unwrap().open_now, 0);
    });
}

#[test]
fn a_follower_that_is_dropped_closes_what_is_open() {
    let log = vec![chunk(1, Stdout, "one\n")];
    let source = Fake::new(log, []).with(|world| world.stalls = true);
    run(async {
        let mut reader = read_log(source.clone(), follow()).await.unwrap();
        assert!(reader.next().await.is_some());
        assert_eq!(source.0.lock().unwrap().open_now, 1);
        drop(reader);
        assert_eq!(source.0.lock().unwrap().open_now, 0);
    });
}

#[test]
fn a_followed_log_that_ends_too_early_is_read_to_its_end() {
    for (last, ahead) in [("end\n", 1), ("no line end", 1), ("no line end", 3)] {
        let log = vec![
            chunk(1, LogStream::Stdout, "one\n"),
            chunk(1, LogStream::Stderr, "two\n"),
            chunk(2, LogStream::Stdout, last),
        ];
        let wanted = join(1 << 20, &log);
        let fake = Fake::new(log, []).with(|world| world.ahead = ahead);
        assert_eq!(run(read(fake, follow())).unwrap(), wanted, "{ahead} of it are missing");
    }
}

#[test]
fn a_long_log_is_not_read_again_from_far_back() {
    const LINES: usize = 20_000;
    let line = |n: usize| chunk(n as u64 * 1000, Stdout, &format!("{n}\n"));
    // The gap is what the container wrote meanwhile: little or much.
    for (gap, tails) in [(500, [Some(1024)].as_slice()), (5_000, &[Some(1024), None])] {
        let log: Vec<_> = (0..LINES).map(line).collect();
        let source = Fake::new(log.clone(), [Cut::Broken(LINES - gap), Cut::Ended(LINES)]);
        assert_eq!(run(read(source.clone(), follow())).unwrap(), join(1000, &log));
        let opens: Vec<_> = source.0.lock().unwrap().opens.iter().map(|open| open.tail).collect();
        let last: &[_] = &[Some(1024)];
        assert_eq!(opens, [&[None], tails, last].concat(), "after {gap} lines");
    }
    // A line in more pieces than are looked back for, all of one time.
    let mut log: Vec<_> = (0..9_000).map(line).collect();
    log.extend((0..5_000).map(|n| chunk(9_000_000, Stdout, &format!("{n},"))));
    log.push(chunk(9_000_000, Stdout, "end\n"));
    for cut in [9_001, 12_000, 14_000, 14_001] {
        let source = Fake::new(log.clone(), [Cut::Broken(cut), Cut::Broken(3_000)]);
        let records = run(read(source, follow().max_line(1 << 20))).unwrap();
        assert_eq!(records, join(1 << 20, &log), "cut after {cut}");
    }
}
