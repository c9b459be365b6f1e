//! Property tests: random logs that are cut at random places.

use proptest::prelude::*;

use super::*;

/// Like [`join`], with lines that overtake unfinished ones after some of the chunks.
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

/// Generates the chunks of a log. Each step gives the stream, the end of the line, and the time
/// since the previous chunk.
fn logs(shared_times: bool) -> impl Strategy<Value = Vec<Chunk>> {
    let gap = prop_oneof![
        8 => 0..3_u64,
        2 => Just(50),
        1 => Just(150_000_000),
        1 => Just(2_500_000_000),
    ];
    // Either equal or disordered times are generated, because a cursor is ambiguous with both.
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
    // The first open is not refused, because that is an error of the call.
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
    fn follow_returns_every_record_once((shared, log, cuts, stalls) in case(), max in 1..40_usize) {
        let source = FakeSource::new(log.clone(), cuts).with(|state| {
            state.shared_times = shared;
            state.stalls = stalls;
        });
        let records = run(read(source.clone(), follow().max_line(max))).unwrap();
        prop_assert_eq!(by_stream(&records), by_stream(&join(max, &log)));
        prop_assert_eq!(source.0.lock().unwrap().open_now, 0);
    }

    #[test]
    fn since_includes_records_with_same_time((shared, log, cuts, stalls) in case(), pick in any::<prop::sample::Index>()) {
        let all = join(1000, &log);
        prop_assume!(!all.is_empty());
        let since = pick.get(&all).time;
        let source = FakeSource::new(log, cuts).with(|state| {
            state.shared_times = shared;
            state.stalls = stalls;
        });
        let records = run(read(source, follow().since(since))).unwrap();
        let wanted: Vec<_> = all.into_iter().filter(|record| record.time >= since).collect();
        prop_assert_eq!(by_stream(&records), by_stream(&wanted));
    }

    #[test]
    fn cursor_resumes_after_every_record((shared, log, cuts, stalls) in case()) {
        let all = join(1000, &log);
        let mut cursor = None;
        for (number, record) in all.iter().enumerate() {
            cursor = Some(LogCursor::advance(cursor, record));
            let source = FakeSource::new(log.clone(), cuts.clone()).with(|state| {
                state.shared_times = shared;
                state.stalls = stalls;
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
        // A cursor is ambiguous if an overtaken stream has records with the same time.
        let times = |stream| log.iter().filter(move |c| c.stream == stream).map(|c| c.time);
        prop_assume!(!times(Stdout).any(|time| times(Stderr).any(|other| other == time)));
        let all = join_and_pass(max, &log, passes);
        prop_assume!(!all.is_empty());
        let given = pick.index(all.len()) + 1;
        let records = all[..given].iter();
        let mut last = records.fold(None, |cursor, record| Some(LogCursor::advance(cursor, record)));
        let cursor = last;
        let source = |cuts| {
            FakeSource::new(log.clone(), cuts).with(|state| {
                state.shared_times = shared;
                state.stalls = stalls;
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
        // The cursor of the last record leaves no further records, in whichever order they were
        // returned.
        let options = LogOptions::default().max_line(max).after(last.unwrap());
        prop_assert_eq!(run(read(source(Vec::new()), options)).unwrap(), [], "after {:?}", last);
    }

    #[test]
    fn tail_returns_last_records(
        (shared, log, cuts, stalls) in case(), wanted in 0..50_u64, ended in any::<bool>(),
    ) {
        let all = join(1000, &log);
        let last = all.len().saturating_sub(usize::try_from(wanted).unwrap());
        let source = FakeSource::new(log.clone(), []).with(|state| state.shared_times = shared);
        let records = run(read(source, LogOptions::default().tail(wanted))).unwrap();
        prop_assert_eq!(&records[..], &all[last..]);

        // The unfinished lines of a running container are not records yet, and follow later.
        let cuts = if ended { Vec::new() } else { cuts };
        let whole = log.iter().rev().take_while(|chunk| !chunk.ends_line).count();
        prop_assume!(ended || whole == 0);
        let source = FakeSource::new(log, cuts).with(|state| {
            state.shared_times = shared;
            state.stalls = stalls;
        });
        let records = run(read(source, follow().tail(wanted))).unwrap();
        let (given, tail) = (by_stream(&records), by_stream(&all[last..]));
        let mut pairs = given.iter().zip(&tail);
        prop_assert!(pairs.all(|(given, tail)| given.ends_with(tail)), "{:?} {:?}", given, tail);
        prop_assert!(ended == (records.len() == all.len() - last) || !ended);
    }
}
