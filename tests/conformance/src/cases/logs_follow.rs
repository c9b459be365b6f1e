//! Following a log to its end, without missing a record.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, future, poll};
use runtime_core::{Capability, Follow, LogOptions, LogReader, LogRecord, StopOptions};

use crate::case::cases;
use crate::context::{rest, text_of};
use crate::failure::fail;
use crate::poll::PATIENCE;
use crate::{Context, Failure, Outcome};

cases! { "follow":
    to_the_end [Logs, LogsFollow];
    from_before_the_start [Logs, LogsFollow];
    of_an_ended_container [Logs, LogsFollow, Wait];
    while_running [Logs, LogsFollow];
    with_tail [Logs, LogsFollow];
    with_since [Logs, LogsFollow, Wait];
    cursor_resumes_in_another_connection [Logs, LogsFollow, Reattach];
    cursor_of_the_last_record [Logs, LogsFollow, Wait];
    sixteen_followers [Logs, LogsFollow];
    slow_reader_loses_nothing [Logs, LogsFollow] heavy long;
    dropped_in_mid_stream [Logs, LogsFollow];
    removed_while_following [Logs, LogsFollow];
    progress_bar_does_not_hold_back_lines [Logs, LogsFollow, LogsStreamsApart];
}

fn following() -> LogOptions {
    LogOptions::default().follow(Follow::Yes)
}

/// Returns the next record of a reader, which must arrive in time.
async fn next(reader: &mut LogReader) -> Result<LogRecord, Failure> {
    match tokio::time::timeout(PATIENCE, reader.next()).await {
        Ok(Some(record)) => Ok(record?),
        Ok(None) => fail!("the log has ended"),
        Err(_) => fail!("no record has come"),
    }
}

/// Returns the remaining records of a reader, which must end in time.
async fn ends(reader: LogReader) -> Result<Vec<LogRecord>, Failure> {
    match tokio::time::timeout(PATIENCE * 2, rest(reader)).await {
        Ok(records) => records,
        Err(_) => fail!("the follower of an ended container goes on"),
    }
}

async fn to_the_end(t: Context) -> Outcome {
    let script = "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.05; done; printf 'no line end'";
    let container = t.start(&t.script(script)).await?;
    let text = text_of(&ends(container.logs(following()).await?).await?);
    assert_eq!(text, "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\nno line end");
    Ok(())
}

async fn from_before_the_start(t: Context) -> Outcome {
    let container = t.create(&t.script("echo one; sleep 0.1; echo two")).await?;
    let mut reader = container.logs(following()).await?;
    assert!(poll!(reader.next()).is_pending(), "a container that was not started has a log");
    container.start().await?;
    assert_eq!(text_of(&ends(reader).await?), "one\ntwo\n");
    Ok(())
}

async fn of_an_ended_container(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("seq 1 100")).await?;
    let followed = ends(container.logs(following()).await?).await?;
    assert_eq!(followed, t.records(&*container, LogOptions::default()).await?);
    assert_eq!(followed.len(), 100);
    Ok(())
}

async fn while_running(t: Context) -> Outcome {
    let script = "trap 'echo bye; exit 7' TERM; echo one; sleep 0.1; echo two; sleep 3600 & wait";
    let container = t.start(&t.script(script)).await?;
    let mut reader = container.logs(following()).await?;
    assert_eq!(next(&mut reader).await?.bytes, "one\n");
    assert_eq!(next(&mut reader).await?.bytes, "two\n");
    // The container runs and writes nothing: the follower neither ends nor returns a record.
    let quiet = tokio::time::timeout(Duration::from_secs(2), reader.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    container.stop(StopOptions::default()).await?;
    assert_eq!(text_of(&ends(reader).await?), "bye\n");
    Ok(())
}

/// An unfinished line delays the lines of the other stream for a bounded time, and a cursor taken meanwhile
/// keeps its position.
async fn progress_bar_does_not_hold_back_lines(t: Context) -> Outcome {
    // Engines buffer the first 16 KiB of an unfinished line.
    let bar = "head -c 40000 /dev/zero | tr '\\0' '\\r' >&2";
    let lines = "for i in 1 2 3 4; do echo line $i; sleep 0.5; done";
    let script = format!("trap 'exit 0' TERM; {bar}; {lines}; sleep 3600 & wait");
    let container = t.start(&t.script(&script)).await?;
    let mut reader = container.logs(following()).await?;
    for number in 1..=4 {
        assert_eq!(next(&mut reader).await?.bytes, format!("line {number}\n"));
    }
    let Some(cursor) = reader.cursor() else { fail!("no cursor after four records") };
    container.stop(StopOptions::default()).await?;
    let resumed = t.records(&*container, LogOptions::default().after(cursor)).await?;
    for rest in [ends(reader).await?, resumed] {
        let text = text_of(&rest);
        assert!(text.len() == 40_000 && text.bytes().all(|byte| byte == b'\r'), "{rest:?}");
    }
    Ok(())
}

async fn with_tail(t: Context) -> Outcome {
    let script = "trap 'echo bye; exit 7' TERM; seq 1 50; echo ready; sleep 3600 & wait";
    let container = t.ready(&t.script(script)).await?;
    let mut last = container.logs(following().tail(2)).await?;
    let mut none = container.logs(following().tail(0)).await?;
    assert_eq!(next(&mut last).await?.bytes, "50\n");
    assert_eq!(next(&mut last).await?.bytes, "ready\n");
    assert!(poll!(none.next()).is_pending());
    container.stop(StopOptions::default()).await?;
    assert_eq!(text_of(&ends(last).await?), "bye\n");
    assert_eq!(text_of(&ends(none).await?), "bye\n");
    Ok(())
}

async fn with_since(t: Context) -> Outcome {
    let script = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done";
    let container = t.start(&t.script(script)).await?;
    let mut reader = container.logs(following()).await?;
    next(&mut reader).await?;
    let third = {
        next(&mut reader).await?;
        next(&mut reader).await?
    };
    let since = container.logs(following().since(third.time)).await?;
    let since = ends(since).await?;
    let all = t.records(&*container, LogOptions::default()).await?;
    assert_eq!(since, super::logs::from(&all, third.time));
    assert!(text_of(&since).ends_with("3\n4\n5\n6\n"));
    Ok(())
}

async fn cursor_resumes_in_another_connection(t: Context) -> Outcome {
    let script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 0.02; done";
    let container = t.start(&t.script(script)).await?;
    let mut text = String::new();
    let mut cursor = None;
    // Ten readers, one after another, each from the position at which the previous one was dropped.
    for _ in 0..10 {
        let connection = t.connect().await?;
        let options = cursor.map_or(following(), |cursor| following().after(cursor));
        let mut reader = connection.container(container.id()).await?.logs(options).await?;
        for _ in 0..4 {
            let record = next(&mut reader).await?;
            text.push_str(&String::from_utf8_lossy(&record.bytes));
        }
        cursor = reader.cursor();
    }
    let Some(cursor) = cursor else { fail!("there is no cursor") };
    text.push_str(&text_of(&ends(container.logs(following().after(cursor)).await?).await?));
    let wanted: String = (1..=60).map(|i| format!("{i}\n")).collect();
    assert_eq!(text, wanted);
    Ok(())
}

async fn cursor_of_the_last_record(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("seq 1 10")).await?;
    let mut reader = container.logs(following()).await?;
    while let Some(record) = reader.next().await {
        record?;
    }
    let Some(cursor) = reader.cursor() else { fail!("there is no cursor") };
    assert_eq!(ends(container.logs(following().after(cursor)).await?).await?, []);
    Ok(())
}

async fn sixteen_followers(t: Context) -> Outcome {
    let script = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); seq 1 100; sleep 0.01; done";
    let container = t.create(&t.script(script)).await?;
    let readers = future::try_join_all((0..16).map(|_| container.logs(following()))).await?;
    container.start().await?;
    let all = future::try_join_all(readers.into_iter().map(ends)).await?;
    let wanted = t.records(&*container, LogOptions::default()).await?;
    assert_eq!(wanted.len(), 2000);
    for records in all {
        assert_eq!(records.len(), wanted.len());
        assert!(records == wanted, "a follower saw other records");
    }
    Ok(())
}

/// The container writes faster than the reader reads: the container has to block, or the engine to buffer.
async fn slow_reader_loses_nothing(t: Context) -> Outcome {
    let container = t.start(&t.writer("seq 1 30000")).await?;
    let mut reader = container.logs(following()).await?;
    for wanted in 1..=30_000_u32 {
        if wanted % 3000 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let record = next(&mut reader).await?;
        let line = String::from_utf8_lossy(&record.bytes);
        if line.trim_end().parse() != Ok(wanted) {
            fail!("line {wanted} is {line:?}");
        }
    }
    assert!(ends(reader).await?.is_empty());
    Ok(())
}

async fn dropped_in_mid_stream(t: Context) -> Outcome {
    // Fast, but at most 10 MiB in ten seconds: beyond that a kubelet rotates the file, and its engine splits
    // a line in two at the rotation.
    let script = "while :; do seq 200 | sed 's/.*/and so on/'; sleep 0.01; done";
    let container = t.start(&t.script(script)).await?;
    for _ in 0..10 {
        let mut reader = container.logs(following()).await?;
        for _ in 0..5 {
            assert_eq!(next(&mut reader).await?.bytes, "and so on\n");
        }
        drop(reader);
    }
    // The connection remains usable.
    let container = Arc::clone(&container);
    if t.has(Capability::Kill) {
        container.kill(runtime_core::Signal::KILL).await?;
    }
    container.remove().await?;
    Ok(())
}

/// The reader returns the lines, and then the one error that every engine has for a removed container.
async fn removed_while_following(t: Context) -> Outcome {
    for is_running in [true, false] {
        let container = match is_running {
            true => t.start(&t.idle()).await?,
            false => t.create(&t.idle()).await?,
        };
        let mut reader = container.logs(following()).await?;
        if is_running {
            assert_eq!(next(&mut reader).await?.bytes, "ready\n");
        }
        container.remove().await?;
        match tokio::time::timeout(PATIENCE * 2, reader.next()).await {
            Ok(Some(Err(error))) if error.kind() == runtime_core::ErrorKind::NotFound => {}
            Ok(other) => fail!("running {is_running}: {other:?}"),
            Err(_) => fail!("the follower of a removed container goes on"),
        }
        assert!(reader.next().await.is_none(), "an error is the last item");
    }
    Ok(())
}
