//! Reading a log: complete, in order, and from any position.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use runtime_core::{
    Capability, Container, ErrorKind, Follow, LogCursor, LogOptions, LogRecord, LogStream,
};

use crate::case::cases;
use crate::context::text_of;
use crate::expect::{recent, refused};
use crate::failure::{Failure, fail};
use crate::{Context, Outcome};

cases! { "logs":
    none [Logs, Wait];
    before_the_start [Logs];
    records_are_lines [Logs, Wait];
    two_streams_in_order [Logs, Wait, LogsStreamsApart];
    no_final_line_end [Logs, Wait];
    line_of_one_mib [Logs, Wait];
    line_over_the_cap [Logs, Wait];
    long_lines_of_both_streams [Logs, Wait, LogsStreamsApart];
    binary_bytes [Logs, LogsExactBytes, Wait];
    carriage_returns [Logs, LogsCarriageReturns, Wait];
    a_hundred_thousand_lines [Logs, Wait] heavy long;
    at_the_exit [Logs, Wait, LogsAtExit];
    since_is_inclusive [Logs, Wait];
    tail [Logs, Wait];
    tail_counts_lines_not_pieces [Logs, Wait];
    cursor_resumes_at_every_record [Logs, Wait];
    cursor_counts_records_of_one_time [Logs, Wait];
    terminal [Logs, Wait, Terminal];
    terminal_line_of_one_mib [Logs, Wait, Terminal];
    wrong_options [Logs];
    read_twice [Logs, Wait];
    while_it_runs [Logs];
    raw_is_what_the_records_hold [Logs, Wait];
    raw_of_many_lines [Logs, Wait] heavy long;
    raw_of_a_terminal [Logs, Wait, Terminal];
    raw_in_every_state [Logs, Wait];
}

async fn none(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("exit 0")).await?;
    assert_eq!(t.records(&*container, LogOptions::default()).await?, []);
    if t.has(Capability::LogsFollow) {
        assert_eq!(t.records(&*container, LogOptions::default().follow(Follow::Yes)).await?, []);
    }
    assert_eq!(container.logs(LogOptions::default()).await?.cursor(), None);
    Ok(())
}

async fn before_the_start(t: Context) -> Outcome {
    let container = t.create(&t.script("echo out")).await?;
    assert_eq!(t.records(&*container, LogOptions::default()).await?, []);
    Ok(())
}

async fn records_are_lines(t: Context) -> Outcome {
    let (container, exit) =
        t.run(&t.script("echo one; echo; echo '  three  '; printf 'a\\rb\\n'")).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    let lines: Vec<&[u8]> = records.iter().map(|record| &record.bytes[..]).collect();
    assert_eq!(lines, [b"one\n".as_slice(), b"\n", b"  three  \n", b"a\rb\n"]);
    // Not the start, because the process may write before the engine has recorded the start.
    let created = container.info().await?.created_at;
    for record in &records {
        let time = recent("the time of a record", Some(record.time))?;
        let unit = t.capabilities().limits.log_time_unit.unwrap_or_default();
        assert!(created.is_none_or(|from| time + unit >= from), "{time:?} is before the creation");
        assert!(exit.ended_at.is_none_or(|ended| time <= ended + Duration::from_secs(5)));
        assert!(!record.continues);
    }
    assert!(records.is_sorted_by_key(|record| record.time));
    Ok(())
}

async fn two_streams_in_order(t: Context) -> Outcome {
    // The pauses put lines of two pipes in an order that the engine can see.
    let script = "for i in 1 2 3 4 5; do echo out $i; sleep 0.5; echo err $i >&2; sleep 0.5; done";
    let (container, _) = t.run(&t.script(script)).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    let seen: Vec<_> = records
        .iter()
        .map(|record| (record.stream, String::from_utf8_lossy(&record.bytes).into_owned()))
        .collect();
    let wanted: Vec<_> = (1..=5)
        .flat_map(|i| {
            [(LogStream::Stdout, format!("out {i}\n")), (LogStream::Stderr, format!("err {i}\n"))]
        })
        .collect();
    assert_eq!(seen, wanted);
    Ok(())
}

async fn no_final_line_end(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("printf 'one\\ntwo'")).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    let lines: Vec<&[u8]> = records.iter().map(|record| &record.bytes[..]).collect();
    assert_eq!(lines, [b"one\n".as_slice(), b"two"]);
    assert!(!records[1].continues);
    Ok(())
}

/// Returns a command that writes the letter `count` times, and a line end.
fn line(letter: char, count: usize) -> String {
    format!("head -c {count} /dev/zero | tr '\\0' {letter}; echo")
}

async fn line_of_one_mib(t: Context) -> Outcome {
    let script = format!("echo before; {}; echo after", line('x', (1 << 20) - 1));
    let (container, _) = t.run(&t.writer(&script)).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    let sizes: Vec<_> = records.iter().map(|record| record.bytes.len()).collect();
    assert_eq!(sizes, [7, 1 << 20, 6]);
    let long = &records[1];
    assert!(!long.continues);
    assert!(long.bytes[..long.bytes.len() - 1].iter().all(|byte| *byte == b'x'));
    assert!(long.bytes.ends_with(b"\n"));
    Ok(())
}

async fn line_over_the_cap(t: Context) -> Outcome {
    let script = format!("{}; echo after", line('y', 100_000));
    let (container, _) = t.run(&t.writer(&script)).await?;
    let options = LogOptions::default().max_line(30_000);
    let records = t.records(&*container, options).await?;
    let (last, pieces) = records.split_last().ok_or(std::fmt::Error)?;
    assert_eq!(last.bytes, "after\n");
    assert!(pieces.iter().all(|piece| piece.bytes.len() <= 30_000));
    assert_eq!(pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>(), 100_001);
    let (end, begin) = pieces.split_last().ok_or(std::fmt::Error)?;
    assert!(begin.len() >= 3 && begin.iter().all(|piece| piece.continues));
    assert!(!end.continues && end.bytes.ends_with(b"\n"));
    Ok(())
}

async fn long_lines_of_both_streams(t: Context) -> Outcome {
    let writer = |letter, to| {
        format!("(for i in 1 2 3 4 5 6 7 8 9 10; do {}; done {to}) &", line(letter, 40_000))
    };
    let script = format!("{} {} wait", writer('o', ""), writer('e', ">&2"));
    let (container, _) = t.run(&t.writer(&script)).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    assert_eq!(records.len(), 20);
    for record in &records {
        let letter = if record.stream == LogStream::Stdout { b'o' } else { b'e' };
        assert_eq!(record.bytes.len(), 40_001);
        assert!(record.bytes[..40_000].iter().all(|byte| *byte == letter), "lines are mixed");
    }
    assert_eq!(records.iter().filter(|record| record.stream == LogStream::Stderr).count(), 10);
    Ok(())
}

async fn binary_bytes(t: Context) -> Outcome {
    let octal: String = (0..=255).map(|byte| format!("\\{byte:03o}")).collect();
    let (container, _) = t.run(&t.spec().command(["printf", &octal])).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    let bytes: Vec<u8> = records.iter().flat_map(|record| record.bytes.to_vec()).collect();
    assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    Ok(())
}

/// Lines with none, one and two carriage returns before their end.
pub(crate) const CARRIAGE_RETURNS: &str = "a\\n\\rb\\r\\n\\r\\nc\\r\\r\\n";

async fn carriage_returns(t: Context) -> Outcome {
    let (container, _) = t.run(&t.spec().command(["printf", CARRIAGE_RETURNS])).await?;
    same_as_records(&t, &*container).await?;
    assert_eq!(t.text(&*container).await?, "a\n\rb\r\n\r\nc\r\r\n");
    Ok(())
}

/// Script that exits with more output than the pipes to the engine can hold.
pub(crate) const LAST_WORDS: &str = "half() { seq 1000000000000001 1000000000005000; }
    half; sleep 0.2; half; exit 7";

/// Returns the output of [`LAST_WORDS`].
pub(crate) fn last_words() -> String {
    let first: u64 = 1_000_000_000_000_001;
    let half: String = (first..first + 5_000).map(|number| format!("{number}\n")).collect();
    half.repeat(2)
}

async fn at_the_exit(t: Context) -> Outcome {
    // An engine that loses output does not lose it in every container.
    for _ in 0..4 {
        let (container, exit) = t.run(&t.script(LAST_WORDS)).await?;
        assert_eq!(exit.code, Some(7));
        let (text, all) = (t.text(&*container).await?, last_words());
        assert!(text == all, "{} of {} bytes", text.len(), all.len());
    }
    Ok(())
}

async fn a_hundred_thousand_lines(t: Context) -> Outcome {
    let (container, _) = t.run(&t.writer("seq 1 100000")).await?;
    let mut reader = container.logs(LogOptions::default()).await?;
    let mut next = 1_u32;
    let mut cursor = None;
    while let Some(record) = reader.next().await {
        let record = record?;
        let line = String::from_utf8_lossy(&record.bytes);
        if line.trim_end().parse() != Ok(next) {
            fail!("line {next} is {line:?}");
        }
        cursor = Some(LogCursor::advance(cursor, &record));
        if next == 50_000 {
            assert_eq!(reader.cursor(), cursor);
        }
        next += 1;
    }
    assert_eq!(next, 100_001);
    assert_eq!(reader.cursor(), cursor);
    Ok(())
}

/// Ten lines, with pauses that spread them over more than a second.
const TEN: &str = "for i in 0 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.12; done";

/// Returns the records that a reader with `since` has to return.
pub(super) fn from(all: &[LogRecord], since: SystemTime) -> Vec<LogRecord> {
    all.iter().filter(|record| record.time >= since).cloned().collect()
}

async fn since_is_inclusive(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script(TEN)).await?;
    let all = t.records(&*container, LogOptions::default()).await?;
    assert_eq!(all.len(), 10);
    if t.capabilities().limits.log_time_unit.is_none() {
        assert!(all.is_sorted_by(|a, b| a.time < b.time), "lines have one time: {all:?}");
    }
    for record in &all {
        for since in [record.time, record.time + Duration::from_nanos(1)] {
            let seen = t.records(&*container, LogOptions::default().since(since)).await?;
            let wanted = from(&all, since);
            // An engine may report truncated times and still filter by exact ones.
            let unit = t.capabilities().limits.log_time_unit.unwrap_or_default();
            let more = seen.len().saturating_sub(wanted.len());
            assert!(seen.ends_with(&wanted), "since {since:?}: {seen:?}, not {wanted:?}");
            assert!(seen[..more].iter().all(|record| record.time + unit > since), "{seen:?}");
            assert!(all.ends_with(&seen), "{seen:?}");
        }
    }
    let future = SystemTime::now() + Duration::from_secs(3600);
    assert_eq!(t.records(&*container, LogOptions::default().since(future)).await?, []);
    let epoch = SystemTime::UNIX_EPOCH;
    assert_eq!(t.records(&*container, LogOptions::default().since(epoch)).await?, all);
    Ok(())
}

async fn tail(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script(TEN)).await?;
    let all = t.records(&*container, LogOptions::default()).await?;
    for (count, from) in [(0, 10), (1, 9), (3, 7), (10, 0), (1000, 0)] {
        let last = t.records(&*container, LogOptions::default().tail(count)).await?;
        assert_eq!(last, all[from..], "tail {count}");
    }
    for (since, count) in [(all[5].time, 2), (all[8].time, 5)] {
        let both = LogOptions::default().since(since).tail(count as u64);
        let left = from(&all, since);
        assert_eq!(t.records(&*container, both).await?, left[left.len().saturating_sub(count)..]);
    }
    Ok(())
}

async fn tail_counts_lines_not_pieces(t: Context) -> Outcome {
    let script = format!("echo first; {}; {}", line('a', 50_000), line('b', 50_000));
    let (container, _) = t.run(&t.writer(&script)).await?;
    let last = t.records(&*container, LogOptions::default().tail(2)).await?;
    let sizes: Vec<_> = last.iter().map(|record| (record.bytes[0], record.bytes.len())).collect();
    assert_eq!(sizes, [(b'a', 50_001), (b'b', 50_001)]);
    Ok(())
}

async fn cursor_resumes_at_every_record(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("seq 1 30")).await?;
    let all = t.records(&*container, LogOptions::default()).await?;
    assert_eq!(all.len(), 30);
    let other = match t.has(Capability::Reattach) {
        true => t.connect().await?.container(container.id()).await?,
        false => container,
    };
    let mut cursor = None;
    for at in 0..all.len() {
        cursor = Some(LogCursor::advance(cursor, &all[at]));
        // The stored form, as passed between two processes.
        let stored = serde_json::to_string(&cursor)?;
        let Some(after) = serde_json::from_str::<Option<LogCursor>>(&stored)? else {
            fail!("{stored}");
        };
        let mut reader = other.logs(LogOptions::default().after(after)).await?;
        assert_eq!(reader.cursor(), cursor, "a reader begins at the cursor it was given");
        for wanted in &all[at + 1..] {
            let Some(record) = reader.next().await else { fail!("a record is lost") };
            assert_eq!(&record?, wanted);
        }
        assert!(reader.next().await.is_none());
    }
    Ok(())
}

/// Fast lines that the engine may stamp with the same time: the cursor counts the records of its time.
async fn cursor_counts_records_of_one_time(t: Context) -> Outcome {
    let (container, _) = t.run(&t.spec().command(["seq", "1", "3000"])).await?;
    let all = t.records(&*container, LogOptions::default()).await?;
    let mut by_time: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (at, record) in all.iter().enumerate() {
        by_time.entry(record.time).or_default().push(at);
    }
    // A cursor is most error-prone at the times with the most records.
    let mut times: Vec<_> = by_time.into_iter().collect();
    times.sort_by_key(|(_, at)| std::cmp::Reverse(at.len()));
    for (time, at) in times.into_iter().take(2) {
        for (given, index) in at.iter().enumerate().take(3) {
            let cursor = LogCursor::new(time, given as u64 + 1);
            let rest = t.records(&*container, LogOptions::default().after(cursor)).await?;
            assert_eq!(rest.len(), all.len() - index - 1);
            assert_eq!(rest.first(), all.get(index + 1));
        }
    }
    Ok(())
}

fn console(records: &[LogRecord]) {
    assert!(records.iter().all(|record| record.stream == LogStream::Console), "{records:?}");
}

async fn terminal(t: Context) -> Outcome {
    let spec = t.script("echo out; echo err >&2; printf 'a\\tb\\033[0m\\n'; printf end");
    let (container, _) = t.run(&spec.interactive(runtime_core::Interactive::Terminal)).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    console(&records);
    assert_eq!(text_of(&records), "out\r\nerr\r\na\tb\u{1b}[0m\r\nend");
    assert_eq!(records.len(), 4);
    Ok(())
}

async fn terminal_line_of_one_mib(t: Context) -> Outcome {
    let script = format!("{}; echo after", line('z', 100_000));
    let spec = t.writer(&script).interactive(runtime_core::Interactive::Terminal);
    let (container, _) = t.run(&spec).await?;
    let records = t.records(&*container, LogOptions::default()).await?;
    console(&records);
    let sizes: Vec<_> = records.iter().map(|record| record.bytes.len()).collect();
    assert_eq!(sizes, [100_002, 7]);
    Ok(())
}

async fn wrong_options(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    let now = SystemTime::now();
    let cursor = LogCursor::new(now, 1);
    for (options, field) in [
        (LogOptions::default().after(cursor).since(now), "after"),
        (LogOptions::default().after(cursor).tail(3), "after"),
        (LogOptions::default().max_line(0), "max_line"),
    ] {
        let error = refused(container.logs(options).await, ErrorKind::InvalidArgument)?;
        assert_eq!(error.field(), Some(field));
    }
    Ok(())
}

async fn read_twice(t: Context) -> Outcome {
    let (container, _) = t.run(&t.writer("seq 1 500; seq 1 500 >&2")).await?;
    let (one, two) = tokio::join!(
        t.records(&*container, LogOptions::default()),
        t.records(&*container, LogOptions::default())
    );
    let (one, two) = (one?, two?);
    assert_eq!(one.len(), 1000);
    assert_eq!(one, two);
    Ok(())
}

/// Without follow, a reader ends at the current end of the log.
async fn while_it_runs(t: Context) -> Outcome {
    let container = t.ready(&t.script("seq 1 10; echo ready; sleep 3600")).await?;
    let read = t.records(&*container, LogOptions::default());
    let Ok(records) = tokio::time::timeout(crate::poll::PATIENCE, read).await else {
        fail!("a reader that does not follow has not ended");
    };
    assert_eq!(records?.len(), 11);
    Ok(())
}

/// Reads the bytes of a raw log, by stream.
async fn raw(container: &dyn Container) -> Result<BTreeMap<LogStream, Vec<u8>>, Failure> {
    let mut log = container.raw_logs().await?;
    let mut streams: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    while let Some(piece) = log.next().await {
        let piece = piece?;
        assert!(!piece.bytes.is_empty(), "an empty piece");
        streams.entry(piece.stream).or_default().extend_from_slice(&piece.bytes);
    }
    Ok(streams)
}

/// Compares a raw log with the records, and returns it.
async fn same_as_records(
    t: &Context,
    container: &dyn Container,
) -> Result<BTreeMap<LogStream, Vec<u8>>, Failure> {
    let mut wanted: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    for record in t.records(container, LogOptions::default()).await? {
        wanted.entry(record.stream).or_default().extend_from_slice(&record.bytes);
    }
    let raw = raw(container).await?;
    let lengths = |streams: &BTreeMap<LogStream, Vec<u8>>| -> Vec<(LogStream, usize)> {
        streams.iter().map(|(stream, bytes)| (*stream, bytes.len())).collect()
    };
    assert_eq!(lengths(&raw), lengths(&wanted));
    assert!(raw == wanted, "the bytes are others");
    Ok(raw)
}

async fn raw_is_what_the_records_hold(t: Context) -> Outcome {
    // Text that older engines put before their own messages, written here by the container itself.
    let words = "Error grabbing logs: no";
    let script = format!(
        "echo out; echo '{words}' >&2; printf '\\377\\000\\n'; {}; ({}) >&2; echo; printf end",
        line('o', 100_000),
        line('e', 40_000)
    );
    let (container, _) = t.run(&t.writer(&script)).await?;
    let streams = same_as_records(&t, &*container).await?;
    let all: usize = streams.values().map(Vec::len).sum();
    // The byte that is not UTF-8 takes three bytes if the engine has replaced it.
    let more = if t.has(Capability::LogsExactBytes) { 0 } else { 2 };
    assert_eq!(all, 4 + words.len() + 1 + 3 + more + 100_001 + 40_001 + 1 + 3);
    if t.has(Capability::LogsStreamsApart) {
        let err = streams.get(&LogStream::Stderr).map(|bytes| &bytes[..words.len()]);
        assert_eq!(err, Some(words.as_bytes()));
    }
    Ok(())
}

async fn raw_of_many_lines(t: Context) -> Outcome {
    let (container, _) = t.run(&t.writer("seq 1 200000")).await?;
    let streams = raw(&*container).await?;
    let all: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(streams.len(), 1);
    for bytes in streams.values() {
        assert!(*bytes == all.as_bytes(), "{} of {} bytes", bytes.len(), all.len());
    }
    Ok(())
}

async fn raw_of_a_terminal(t: Context) -> Outcome {
    let script = format!("echo out; {}; printf end", line('z', 100_000));
    let spec = t.writer(&script).interactive(runtime_core::Interactive::Terminal);
    let (container, _) = t.run(&spec).await?;
    let streams = same_as_records(&t, &*container).await?;
    let sizes: Vec<_> = streams.iter().map(|(stream, bytes)| (*stream, bytes.len())).collect();
    assert_eq!(sizes, [(LogStream::Console, 5 + 100_002 + 3)]);
    Ok(())
}

async fn raw_in_every_state(t: Context) -> Outcome {
    let created = t.create(&t.script("echo out")).await?;
    assert_eq!(raw(&*created).await?, BTreeMap::new());

    let running = t.ready(&t.script("seq 1 2000; echo ready; sleep 3600")).await?;
    let read = tokio::time::timeout(crate::poll::PATIENCE, raw(&*running));
    let Ok(streams) = read.await else { fail!("a raw log of a running container has no end") };
    let bytes: usize = streams?.values().map(Vec::len).sum();
    assert_eq!(bytes, 8_893 + 6);

    running.remove().await?;
    let error = refused(running.raw_logs().await.map(drop), ErrorKind::NotFound)?;
    assert!(error.subject().is_some(), "the error names no container: {error}");
    Ok(())
}
