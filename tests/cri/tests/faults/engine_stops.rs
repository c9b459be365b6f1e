//! An engine that freezes and dies while containers run.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use runtime_conformance::{BoxError, EngineControl as _};
use runtime_core::{
    Container, ExitReason, Follow, LABEL_NONCE, LogOptions, LogRecord, Mount, Runtime,
};
use test_support::{
    Connection as _, PATIENCE, Waiter, deadlines_of, dies_in_mid_call, does_not_answer, until,
};
use tokio::task::JoinHandle;

use super::own::Own;
use super::support::{Engine, Outcome};

/// Number of containers, and minimum number of lines that each has written at every kill of the engine.
const CONTAINERS: usize = 6;
const STEP: u64 = 20;
const DEATHS: u64 = 3;

/// Followers and waiters of containers that run and exit while the engine is killed three times, and while it
/// is down.
///
/// containerd itself loses two kinds of output, which are in no file: output that it had read from a
/// container and not yet written when it was killed, here one line at most; and output in the pipes of a
/// container that exited while containerd was down, because containerd closes the pipes before it has
/// reopened them ("reading from a closed fifo").
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_again_and_again() -> Outcome {
    let own = Own::up().await?;
    let engine = own.connect().await?;
    let folder = tempfile::tempdir_in(&engine.environment.shared)?;
    let mut followed = Vec::new();
    for number in 0..CONTAINERS {
        let script = format!(
            "i=0; while [ ! -e /data/{} ]; do i=$((i+1)); echo $i; echo $i >/data/{number}; \
             sleep 0.02; done; echo end; exit {}",
            if ends_away(number) { "away" } else { "back" },
            10 + number
        );
        let spec = engine.script(&script).mount(Mount::new(folder.path(), "/data"));
        followed.push(Followed::start(engine.runtime.create_container(&spec).await?).await?);
    }
    let written = |number: usize| -> u64 {
        let text = fs::read_to_string(folder.path().join(number.to_string()));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    for death in 1..=DEATHS {
        for number in 0..CONTAINERS {
            until("lines", async || Ok(written(number) >= death * STEP)).await?;
        }
        own.kill().await?;
        if death == DEATHS {
            fs::write(folder.path().join("away"), "")?;
        }
        own.start().await?;
    }
    for (number, followed) in followed.iter().enumerate().filter(|(number, _)| !ends_away(*number))
    {
        let before = written(number);
        until("the pipes to be read again", async || {
            Ok(lines(&*followed.container).await?.len() as u64 > before)
        })
        .await?;
    }
    fs::write(folder.path().join("back"), "")?;
    for (number, followed) in followed.into_iter().enumerate() {
        let exit = followed.waiter.answer(60).await??;
        let code = i32::try_from(10 + number)?;
        assert_eq!((exit.code, exit.reason), (Some(code), ExitReason::Exited), "{number}");
        assert_eq!(followed.container.info().await?.exit, Some(exit));
        let records = tokio::time::timeout(Duration::from_secs(60), followed.records).await???;
        let found = texts(&records);
        assert_eq!(found, lines(&*followed.container).await?, "{number}: read again");
        assert_eq!(
            found,
            in_files(&engine, &*followed.container)?,
            "{number}: what is in the files"
        );
        let numbers: Vec<u64> = found.iter().filter_map(|line| line.parse().ok()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{number}: in order, and none twice");
        if !ends_away(number) {
            assert_eq!(found.last().map(String::as_str), Some("end"), "{number}");
            let missing = written(number) - numbers.len() as u64;
            assert!(missing <= DEATHS, "{number}: {missing} of {} are missing", written(number));
        }
    }
    engine.finish().await
}

fn ends_away(number: usize) -> bool {
    number % 2 == 1
}

/// Container with a waiter and a follower.
struct Followed {
    container: Arc<dyn Container>,
    waiter: Waiter,
    records: JoinHandle<runtime_core::Result<Vec<LogRecord>>>,
}

impl Followed {
    async fn start(container: Arc<dyn Container>) -> runtime_core::Result<Self> {
        container.start().await?;
        let follower = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
        let waiter = Waiter::of(&container);
        Ok(Self { container, waiter, records: tokio::spawn(follower.try_collect()) })
    }
}

async fn lines(container: &dyn Container) -> runtime_core::Result<Vec<String>> {
    let records: Vec<_> = container.logs(LogOptions::default()).await?.try_collect().await?;
    Ok(texts(&records))
}

/// Reads the lines from the log files, without the code under test: each short line is complete, with an `F`.
fn in_files(engine: &Engine, container: &dyn Container) -> Result<Vec<String>, BoxError> {
    let engine_has = engine.raw.ctr(&["containers", "info", container.id().as_str()])?;
    let engine_has: serde_json::Value = serde_json::from_str(&engine_has)?;
    let nonce = engine_has["Labels"][LABEL_NONCE].as_str().ok_or("it has no nonce")?;
    let mut files: Vec<_> =
        fs::read_dir(engine.logs().join(nonce))?.flatten().map(|file| file.path()).collect();
    files.retain(|file| file.to_string_lossy().contains("/container.log"));
    // Nothing rotates them here.
    assert_eq!(files.len(), 1, "{files:?}");
    let text = fs::read_to_string(&files[0])?;
    let whole = text.lines().filter_map(|line| line.split_once(" stdout F "));
    Ok(whole.map(|(_, line)| line.to_owned()).collect())
}

fn texts(records: &[LogRecord]) -> Vec<String> {
    let text = |record: &LogRecord| String::from_utf8_lossy(&record.bytes).trim_end().to_owned();
    records.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_in_mid_call() -> Outcome {
    let own = Own::up().await?;
    let engine = own.connect().await?;
    // A sandbox, a container and a log directory for each of the two.
    dies_in_mid_call(&own, &engine, 2 * 3, PATIENCE).await?;
    engine.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_answer() -> Outcome {
    let own = Own::up().await?;
    let engine = own.connect().await?;
    let deadlines = deadlines_of(Duration::from_secs(2));
    let scope = engine.runtime.scope().clone();
    let impatient = own.connect_as(scope, |options| options.deadlines(deadlines)).await?;
    does_not_answer(&own, &engine, &impatient, Duration::from_secs(9)).await?;
    engine.finish().await
}
