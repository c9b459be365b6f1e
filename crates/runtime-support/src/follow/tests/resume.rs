//! Tests of followers that resume after a cut, a rotation or an early end.

use super::*;

#[test]
fn lines_after_progress_bar_wait_for_bounded_time() {
    let log = vec![chunk(1, Stdout, "one\n"), chunk(2, Stderr, "\r50%"), chunk(3, Stdout, "two\n")];
    // The container keeps running, and the followed log stays open.
    let source = FakeSource::new(log.clone(), [Cut::Stalled, Cut::Ended(3)]);
    run(async {
        let mut reader = read_log(source.clone(), follow()).await.unwrap();
        let start = tokio::time::Instant::now();
        assert_eq!(reader.next().await.unwrap().unwrap().bytes, "one\n");
        assert_eq!(reader.next().await.unwrap().unwrap().bytes, "two\n");
        assert!(start.elapsed() <= Duration::from_secs(1), "{:?}", start.elapsed());
        // The cursor includes the position of the progress bar.
        let cursor = reader.cursor().unwrap();
        source.0.lock().unwrap().script.clear();
        let rest = read(source, LogOptions::default().after(cursor)).await.unwrap();
        assert_eq!(by_stream(&rest), by_stream(&join(100, &log[1..2])));
    });
}

#[test]
fn follow_of_created_container_waits_for_start() {
    let log = vec![chunk(1, Stdout, "one\n"), chunk(2, Stderr, "two\n")];
    let source = FakeSource::new(log.clone(), []).with(|state| state.created = 7);
    let records = run(read(source, follow())).unwrap();
    assert_eq!(records, join(1000, &log));
}

#[test]
fn unfinished_line_of_running_container_is_not_returned() {
    let log = vec![chunk(1, Stdout, "one\n"), chunk(2, Stdout, "tw")];
    let running = FakeSource::new(log.clone(), [Cut::Ended(9), Cut::Ended(9)]);
    let records = run(read(running, LogOptions::default())).unwrap();
    assert_eq!(records, join(1000, &log[..1]));
    let ended = FakeSource::new(log.clone(), []);
    assert_eq!(run(read(ended, LogOptions::default())).unwrap(), join(1000, &log));
}

#[test]
fn follow_after_rotation_returns_lost_or_continues() {
    let log: Vec<_> = (0..20).map(|n| chunk(n, Stdout, &format!("{n}\n"))).collect();
    for requires_position in [true, false] {
        let source = FakeSource::new(log.clone(), [Cut::Broken(10), Cut::Ended(20)])
            .with(|state| state.requires_position = requires_position);
        run(async {
            let mut reader = read_log(source.clone(), follow()).await.unwrap();
            for record in &join(1000, &log)[..10] {
                assert_eq!(reader.next().await.unwrap().unwrap(), *record);
            }
            source.0.lock().unwrap().log.drain(..12);
            if requires_position {
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
fn follow_after_rotation_before_position_continues() {
    let log: Vec<_> = (0..20).map(|n| chunk(n, Stdout, &format!("{n}\n"))).collect();
    // Either all chunks read are gone without new ones, or the last chunk read is still present.
    for (log_now, more) in [(&log[..0], &log[..0]), (&log[9..], &log[10..])] {
        let source = FakeSource::new(log[..10].to_vec(), [Cut::Broken(10), Cut::Ended(20)]);
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
fn follow_after_rotation_within_line_returns_lost() {
    let log = vec![chunk(1, Stdout, "one\n"), chunk(2, Stdout, "begin")];
    let source = FakeSource::new(log, [Cut::Broken(2), Cut::Ended(20)]);
    run(async {
        let mut reader = read_log(source.clone(), follow()).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().bytes, "one\n");
        source.0.lock().unwrap().log = vec![chunk(9, Stdout, "end\n")];
        assert_eq!(reader.next().await.unwrap().unwrap_err().kind(), ErrorKind::Lost);
        assert!(reader.next().await.is_none());
    });
}

#[test]
fn first_open_error_is_returned_and_later_error_ends_log() {
    let refused = FakeSource::new(Vec::new(), [Cut::Refused, Cut::Ended(0)]);
    let error = run(read(refused, follow())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);

    let log = vec![chunk(1, Stdout, "one\n"), chunk(2, Stdout, "two\n")];
    let broken = FakeSource::new(log.clone(), [Cut::Broken(1), Cut::Ended(2)]);
    run(async {
        let mut reader = read_log(broken.clone(), LogOptions::default()).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap(), join(1000, &log)[0]);
        assert_eq!(reader.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(reader.next().await.is_none());
        assert_eq!(broken.0.lock().unwrap().open_now, 0);
    });
}

#[test]
fn dropped_follower_closes_stream() {
    let log = vec![chunk(1, Stdout, "one\n")];
    let source = FakeSource::new(log, []).with(|state| state.stalls = true);
    run(async {
        let mut reader = read_log(source.clone(), follow()).await.unwrap();
        assert!(reader.next().await.is_some());
        assert_eq!(source.0.lock().unwrap().open_now, 1);
        drop(reader);
        assert_eq!(source.0.lock().unwrap().open_now, 0);
    });
}

#[test]
fn followed_log_that_ends_early_is_read_to_end() {
    for (last, ahead) in [("end\n", 1), ("no line end", 1), ("no line end", 3)] {
        let log = vec![
            chunk(1, LogStream::Stdout, "one\n"),
            chunk(1, LogStream::Stderr, "two\n"),
            chunk(2, LogStream::Stdout, last),
        ];
        let wanted = join(1 << 20, &log);
        let fake = FakeSource::new(log, []).with(|state| state.ahead = ahead);
        assert_eq!(run(read(fake, follow())).unwrap(), wanted, "{ahead} chunks are missing");
    }
}

#[test]
fn resume_of_long_log_requests_last_chunks() {
    const LINES: usize = 20_000;
    let line = |n: usize| chunk(n as u64 * 1000, Stdout, &format!("{n}\n"));
    // The gap is the number of lines written in between: small or large.
    for (gap, tails) in [(500, [Some(1024)].as_slice()), (5_000, &[Some(1024), None])] {
        let log: Vec<_> = (0..LINES).map(line).collect();
        let source = FakeSource::new(log.clone(), [Cut::Broken(LINES - gap), Cut::Ended(LINES)]);
        assert_eq!(run(read(source.clone(), follow())).unwrap(), join(1000, &log));
        let opens: Vec<_> = source.0.lock().unwrap().opens.iter().map(|open| open.tail).collect();
        let last: &[_] = &[Some(1024)];
        assert_eq!(opens, [&[None], tails, last].concat(), "after {gap} lines");
    }
    // A line in more pieces than one request returns, all with one time.
    let mut log: Vec<_> = (0..9_000).map(line).collect();
    log.extend((0..5_000).map(|n| chunk(9_000_000, Stdout, &format!("{n},"))));
    log.push(chunk(9_000_000, Stdout, "end\n"));
    for cut in [9_001, 12_000, 14_000, 14_001] {
        let source = FakeSource::new(log.clone(), [Cut::Broken(cut), Cut::Broken(3_000)]);
        let records = run(read(source, follow().max_line(1 << 20))).unwrap();
        assert_eq!(records, join(1 << 20, &log), "cut after {cut}");
    }
}
