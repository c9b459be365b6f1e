//! Log files that are rotated, deleted, torn or cut.

use std::fs;
use std::io::Write;
use std::path::Path;

use futures_util::{StreamExt, TryStreamExt};
use runtime_conformance::BoxError;
use runtime_core::{
    Container, ContainerExt, ErrorKind, Follow, LogOptions, LogRecord, LogStream, Runtime,
    StopOptions,
};
use runtime_cri::LogRotation;
use test_support::{Connection as _, until};

use super::support::{Engine, Outcome, log_folder};

/// Returns the numbers at the start of the lines of a log.
fn numbers(records: &[LogRecord]) -> Vec<u64> {
    records
        .iter()
        .filter_map(|record| {
            String::from_utf8_lossy(&record.bytes).split_whitespace().next()?.parse().ok()
        })
        .collect()
}

/// Returns a description of the first gap if the lines are not numbered from 1 to `last`, each once.
fn gap(records: &[LogRecord], last: u64) -> Option<String> {
    let numbers = numbers(records);
    let at = numbers.iter().zip(1..=last).take_while(|(found, wanted)| **found == *wanted).count();
    let whole = numbers.len() as u64 == last && at == numbers.len();
    (!whole).then(|| {
        let from = at.saturating_sub(2);
        let around = &numbers[from..numbers.len().min(at + 3)];
        format!("{} lines, and around line {}: {around:?}", numbers.len(), at + 1)
    })
}

async fn all(
    container: &dyn Container,
    options: LogOptions,
) -> runtime_core::Result<Vec<LogRecord>> {
    container.logs(options).await?.collect::<Vec<_>>().await.into_iter().collect()
}

/// Script that writes lines as fast as it can, to both streams. It outlives its output, for engines that lack
/// `logs_at_exit`.
const WRITER: &str = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i some more words; \
                      [ $((i % 7)) = 0 ] && echo err $i >&2; done; printf last; sleep 4";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_over_rotations() -> Outcome {
    let engine = Engine::of_environment().await?;
    let container = engine.runtime.create_container(&engine.script(WRITER)).await?;
    container.start().await?;
    let mut follower = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    let reader = tokio::spawn(async move {
        let mut records = Vec::new();
        while let Some(record) = follower.next().await {
            records.push(record?);
        }
        Ok::<_, runtime_core::Error>(records)
    });
    let mut rotations = 0;
    let ended = container.wait();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            exit = &mut ended => { exit?; break; }
            rotated = engine.runtime.rotate_logs(1000, None) => rotations += rotated?,
        }
    }
    assert!(rotations >= 2, "{rotations} rotations are too few to show anything");
    let followed = reader.await??;
    assert_eq!(gap(&followed, 20_000), None, "followed over {rotations} rotations");
    // The last of its stream, because the other stream uses another pipe.
    let stdout = followed.iter().rfind(|record| record.stream == LogStream::Stdout);
    assert_eq!(stdout.map(|record| &record.bytes[..]), Some(&b"last"[..]));
    let read = all(&*container, LogOptions::default()).await?;
    assert_eq!(read, followed, "read back");
    // From a position in the middle of a rotated file, and from a time there.
    let middle = followed.len() / 3;
    let mut cursor = None;
    for record in &followed[..middle] {
        cursor = Some(runtime_core::LogCursor::advance(cursor, record));
    }
    let cursor = cursor.expect("there are records");
    assert_eq!(all(&*container, LogOptions::default().after(cursor)).await?, followed[middle..]);
    let since = followed[middle].time;
    let later: Vec<_> = followed.iter().filter(|record| record.time >= since).cloned().collect();
    assert_eq!(all(&*container, LogOptions::default().since(since)).await?, later);
    for tail in [0, 1, 10, 15_000] {
        let read = all(&*container, LogOptions::default().tail(tail)).await?;
        let from = followed.len() - usize::try_from(tail)?;
        assert_eq!(read, followed[from..], "the last {tail}");
    }
    println!("{} records over {rotations} rotations", followed.len());
    engine.finish().await
}

#[tokio::test]
async fn only_so_many_rotated_files_are_kept() -> Outcome {
    let engine = Engine::of_environment().await?;
    let script = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.01; done";
    let container = engine.runtime.create_container(&engine.script(script)).await?;
    container.start().await?;
    let folder = log_folder(&engine, &*container)?;
    let mut rotations = 0;
    while rotations < 6 {
        rotations += engine.runtime.rotate_logs(100, Some(2)).await?;
    }
    let files = fs::read_dir(&folder)?
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().starts_with("container.log."));
    assert_eq!(files.count(), 2);
    container.remove().await?;
    assert!(!folder.exists());
    engine.finish().await
}

/// Returns the rotated files of a directory, in order.
fn rotated(folder: &Path) -> Result<Vec<String>, BoxError> {
    let names = fs::read_dir(folder)?.flatten().map(|file| file.file_name().into_string());
    let names = names.collect::<Result<Vec<_>, _>>().map_err(|name| format!("{name:?}"))?;
    let mut rotated: Vec<_> =
        names.into_iter().filter(|name| name.starts_with("container.log.")).collect();
    rotated.sort();
    Ok(rotated)
}

/// The runtime checks the sizes periodically, without a call to rotate.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_rotates_by_itself() -> Outcome {
    const KEEP: usize = 2;
    let rotation = LogRotation::Size { max_bytes: 1000, keep: Some(KEEP as u32) };
    let engine = Engine::of_environment_with(|options| options.log_rotation(rotation)).await?;
    // It outlives its output, for engines that lack `logs_at_exit`.
    let script = "trap 'end=1' TERM; i=0; while [ -z $end ]; do i=$((i+1)); echo $i; sleep 0.02; done; \
                  echo last $i; sleep 4";
    let container = engine.runtime.create_container(&engine.script(script)).await?;
    container.start().await?;
    let follower = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    let follower = tokio::spawn(follower.try_collect::<Vec<_>>());
    let folder = log_folder(&engine, &*container)?;
    // One check for each file, and one more that deletes the first.
    for number in 1..=KEEP + 1 {
        let name = format!("container.log.{number:010}");
        until(&name, async || Ok(rotated(&folder)?.contains(&name))).await?;
    }
    until("file thrown away", async || Ok(rotated(&folder)?.len() <= KEEP)).await?;
    assert_eq!(rotated(&folder)?, ["container.log.0000000002", "container.log.0000000003"]);
    container.stop(StopOptions::default()).await?;
    let followed = follower.await??;
    let last = followed.last().map(|record| String::from_utf8_lossy(&record.bytes).into_owned());
    let last = last.as_deref().and_then(|line| line.trim_end().strip_prefix("last "));
    let last: u64 = last.ok_or("the last line is missing")?.parse()?;
    assert_eq!(gap(&followed, last), None, "followed over {} files", KEEP + 1);
    // A later reader gets the kept files, without a gap.
    let read = all(&*container, LogOptions::default()).await?;
    assert_eq!(read, followed[followed.len() - read.len()..]);
    assert!(read.len() < followed.len(), "nothing was thrown away");
    engine.finish().await
}

/// The file is as an engine leaves it after a full disk or a crash of the host.
#[tokio::test]
async fn a_torn_file_costs_no_whole_line() -> Outcome {
    let engine = Engine::of_environment().await?;
    let container = engine.runtime.create_container(&engine.script("echo 1; echo 2")).await?;
    container.run().await?;
    let before = all(&*container, LogOptions::default()).await?;
    let path = log_folder(&engine, &*container)?.join("container.log");
    let whole = fs::read(&path)?;
    let mut file = fs::File::options().append(true).open(&path)?;
    file.write_all(b"2026-01-01T00:00:0")?;
    file.write_all(&[0; 5000])?;
    file.write_all(&whole)?;
    drop(file);
    let torn = all(&*container, LogOptions::default()).await?;
    let twice: Vec<_> = before.iter().chain(&before).cloned().collect();
    assert_eq!(torn, twice);
    // Cut in the middle of a line: the remaining part is returned.
    fs::write(&path, &whole[..whole.len() - 2])?;
    let cut = all(&*container, LogOptions::default()).await?;
    assert_eq!(cut.len(), 2);
    assert_eq!(cut[0], before[0]);
    // A missing file is not an empty log.
    fs::remove_file(&path)?;
    let error = all(&*container, LogOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    engine.finish().await
}

/// A follower does not read while its unread files are deleted.
#[tokio::test]
async fn a_file_that_is_thrown_away_unread_is_said_to_be_lost() -> Outcome {
    let engine = Engine::of_environment().await?;
    let script = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.01; done";
    let container = engine.runtime.create_container(&engine.script(script)).await?;
    container.start().await?;
    let mut follower = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    assert!(follower.next().await.is_some_and(|record| record.is_ok()));
    let mut rotations = 0;
    while rotations < 6 {
        rotations += engine.runtime.rotate_logs(100, Some(1)).await?;
    }
    let lost = loop {
        match follower.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("the follower of a running container has ended"),
        }
    };
    assert_eq!(lost.kind(), ErrorKind::Lost, "{lost}");
    assert!(follower.next().await.is_none());
    engine.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn log_without_all_of_its_files_is_lost() -> Outcome {
    let engine = Engine::of_environment().await?;
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    let container = engine.start(&engine.script(script)).await?;
    let mut cursor = None;
    for _ in 0..3 {
        until("a rotation", async || Ok(engine.runtime.rotate_logs(1, None).await? == 1)).await?;
        if cursor.is_none() {
            let mut reader = container.logs(LogOptions::default()).await?;
            reader.next().await.ok_or("there is no record")??;
            cursor = reader.cursor();
        }
    }
    let folder = log_folder(&engine, &*container)?;
    fs::remove_file(folder.join("container.log.0000000002"))?;
    let read: Vec<_> = container.logs(LogOptions::default()).await?.collect().await;
    let last = read.last().ok_or("there is no record")?;
    assert_eq!(last.as_ref().map_err(runtime_core::Error::kind).err(), Some(ErrorKind::Lost));
    assert!(read.len() > 1, "what is before the gap is read");
    fs::remove_file(folder.join("container.log.0000000001"))?;
    // Two seconds of skew between the streams are allowed for.
    let cursor = cursor.ok_or("there is no cursor")?;
    until("a cursor that is lost", async || {
        let again = LogOptions::default().after(cursor);
        engine.runtime.rotate_logs(1, Some(1)).await?;
        match container.logs(again).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::Lost => Ok(true),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    fs::remove_dir_all(&folder)?;
    let error = container.logs(LogOptions::default()).await.err().ok_or("there is a log")?;
    assert_eq!(error.kind(), ErrorKind::Lost, "{error:?}");
    engine.finish().await
}
