//! Tests of cursors and tails.

use super::*;

#[test]
fn cursor_after_overtaken_line_returns_only_later_records() {
    let mut log = vec![chunk(1, Stdout, "prompt")];
    log.extend((2..30_012).map(|n| chunk(n, Stderr, "a line\n")));
    // Like Docker, with the time of the first piece.
    log.push(chunk(1, Stdout, " end\n"));
    log.push(chunk(30_012, Stderr, "last\n"));
    let source = FakeSource::new(log.clone(), []);
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
fn cursor_of_discarded_record_returns_lost_or_existing_records() {
    let log = vec![chunk(5, Stdout, "5\n"), chunk(6, Stdout, "6\n")];
    let gone = LogCursor::new(at(4), 2);
    for cuts in [vec![], vec![Cut::Ended(2), Cut::Ended(2)]] {
        let source = |requires_position| {
            FakeSource::new(log.clone(), cuts.clone()).with(|state| {
                state.stalls = true;
                state.requires_position = requires_position;
            })
        };
        assert_eq!(run(read(source(false), follow().after(gone))).unwrap(), join(1000, &log));
        let lost = run(read(source(true), follow().after(gone))).unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Lost);
    }
    let source = FakeSource::new(log.clone(), []);
    let lost = run(read(source, LogOptions::default().after(gone))).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Lost);
}

#[test]
fn cursor_without_missing_records_does_not_return_lost() {
    let log = [chunk(5, Stdout, "a long line\n"), chunk(6, Stdout, "6\n")];
    let after = |records, unit, log: &[Chunk]| {
        let source = FakeSource::new(log.to_vec(), []).with(|state| state.unit = unit);
        let cursor = LogCursor::new(at(5), records);
        run(read(source, LogOptions::default().after(cursor)))
    };
    let (nano, second) = (Duration::from_nanos(1), Duration::from_secs(1));
    let last = || join(1000, &log[1..]);
    // The cursor is before the first record of its time; or the log has no record after the cursor.
    assert_eq!(after(0, nano, &log[1..]).unwrap(), last());
    assert_eq!(after(1, nano, &[]).unwrap(), []);
    assert_eq!(after(2, second, &log[..1]).unwrap(), []);
    // The line was returned in more pieces. With a resolution of a second, lines may be missing.
    assert_eq!(after(3, nano, &log).unwrap(), last());
    assert_eq!(after(3, second, &log).unwrap_err().kind(), ErrorKind::Lost);
}

#[test]
fn cursor_of_tail_counts_omitted_records() {
    let second = 1_000_000_000;
    let line = |seconds, text| chunk(seconds * second, Stdout, text);
    let log = [line(1, "a\n"), line(2, "b\n"), line(2, "c\n"), line(2, "d\n")];
    for shared_times in [true, false] {
        for (tail, records) in [(1, [3].as_slice()), (2, &[2, 3]), (3, &[1, 2, 3])] {
            let source = FakeSource::new(log.to_vec(), []).with(|state| {
                state.shared_times = shared_times;
                state.unit = Duration::from_nanos(second);
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
    // A record after the tail starts a new count.
    let log = [line(1, "a\n"), line(1, "b\n"), line(2, "c\n")];
    run(async {
        let source = FakeSource::new(log.to_vec(), []);
        let mut reader = read_log(source, LogOptions::default().tail(1)).await.unwrap();
        reader.next().await.unwrap().unwrap();
        assert_eq!(reader.cursor(), Some(LogCursor::new(at(2 * second), 1)));
    });
}

#[test]
fn small_tail_of_long_log_requests_few_chunks() {
    let mut log: Vec<_> = (0..100_000).map(|n| chunk(n * 1_000_000, Stdout, "line\n")).collect();
    log.push(chunk(100_000_000_000, Stderr, "the end\n"));
    let source = FakeSource::new(log.clone(), []);
    let records = run(read(source.clone(), LogOptions::default().tail(10))).unwrap();
    assert_eq!(records, join(1000, &log)[log.len() - 10..]);
    let opens: Vec<_> = source.0.lock().unwrap().opens.iter().map(|open| open.tail).collect();
    // Only the second request shows that the line on stderr has no earlier piece.
    assert_eq!(opens, [Some(18), Some(144)]);
}
