//! A full disk under the log directory.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use runtime_core::{
    Container, ContainerExt, ErrorKind, ExitReason, Follow, LogOptions, Runtime, StopOptions,
    StopOutcome,
};
use test_support::Connection as _;

use super::own::Own;
use super::support::{Outcome, fails, scope};

/// Fills the remaining space of a disk.
fn fill(disk: &Path) -> Outcome {
    let block = vec![b'x'; 4096];
    let mut number = 0;
    loop {
        match fs::write(disk.join(format!("filler-{number}")), &block) {
            Ok(()) => number += 1,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A container writes more than the disk can hold: it exits normally, the content of the file is read, and
/// the follower ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_full() -> Outcome {
    let (own, disk) = Own::up_with_disk("size=256k").await?;
    let engine = own.connect_as(scope(), |options| options.log_dir(&disk)).await?;
    let spec = engine.script("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; exit 7");
    let container = engine.runtime.create_container(&spec).await?;
    container.start().await?;
    let follower = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    let followed = tokio::spawn(follower.collect::<Vec<_>>());
    let exit = tokio::time::timeout(Duration::from_secs(60), container.wait()).await??;
    assert_eq!((exit.code, exit.reason), (Some(7), ExitReason::Exited));
    let followed = tokio::time::timeout(Duration::from_secs(60), followed).await??;
    let followed: Vec<_> = followed.into_iter().collect::<Result<_, _>>()?;
    let read = container.logs(LogOptions::default()).await?.collect::<Vec<_>>().await;
    let read: Vec<_> = read.into_iter().collect::<Result<_, _>>()?;
    assert_eq!(followed, read);
    assert!(read.len() > 1000 && read.len() < 20_000, "{} records", read.len());
    // Every line is a written line, in order; only the last may be cut.
    for (number, record) in read.iter().enumerate().take(read.len() - 1) {
        assert_eq!(record.bytes, format!("{}\n", number + 1), "of {}", read.len());
    }
    println!("{} of 20000 lines found room", read.len());

    // There is no space for the mark of a stop; the stop succeeds nevertheless.
    let running = engine.runtime.create_container(&engine.idle()).await?;
    running.start().await?;
    fill(&disk)?;
    let stopped = running.stop(StopOptions::default().grace(Duration::ZERO)).await?;
    let StopOutcome::Stopped(exit) = stopped else { panic!("{stopped:?}") };
    assert_eq!(exit.code, Some(137));
    running.remove().await?;
    container.remove().await?;
    assert_eq!(engine.left().await?, Vec::<String>::new());
    engine.finish().await
}

/// There is no space for another directory: a create fails with that reason and leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_for_a_folder() -> Outcome {
    let (own, disk) = Own::up_with_disk("size=1m,nr_inodes=12").await?;
    let engine = own.connect_as(scope(), |options| options.log_dir(&disk)).await?;
    let first = engine.runtime.create_container(&engine.spec().command(["true"])).await?;
    for number in 0.. {
        match fs::create_dir(disk.join(format!("filler-{number}"))) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error.into()),
        }
    }
    let before = own.count()?;
    let begun = Instant::now();
    let created = engine.runtime.create_container(&engine.idle()).await;
    fails(created, ErrorKind::ResourceExhausted, begun);
    assert_eq!(own.count()?, before);
    assert_eq!(engine.left().await?.len(), 2, "the sandbox and the container of the first");
    let folders = fs::read_dir(disk.join(engine.runtime.scope().as_str()))?;
    assert_eq!(folders.count(), 1, "the log folder of the first");
    // There is no space for its log file either.
    match first.run().await {
        Ok(exit) => assert_eq!(exit.code, Some(0)),
        Err(error) => println!("without room for its log it does not start: {error}"),
    }
    first.remove().await?;
    engine.finish().await
}
