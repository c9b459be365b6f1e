//! Logs of which the engine discards the oldest part. The library creates containers with the log settings of
//! the engine, so these containers are created by hand.

use futures_util::StreamExt as _;
use runtime_core::{
    Container as _, ContainerId, Deadlines, ErrorKind, Follow, LABEL_MANAGED, LABEL_SCOPE,
    LogOptions, PullOptions, Runtime, Signal,
};
use serde_json::json;
use test_support::{Connection as _, Own, until};

use super::support::{Engine, OWN, Outcome, scope};

/// Script that writes a line, and on USR1 far more output than the engine keeps.
const SCRIPT: &str = "trap 'seq 5000' USR1; echo first; while :; do sleep 0.1; done";

#[tokio::test]
async fn a_reader_is_told_that_its_place_was_thrown_away() -> Outcome {
    let own = Own::up(OWN).await?;
    let engine = Engine::of_own(&own, scope(), Deadlines::default()).await?;
    let kept = json!({ "Type": "json-file", "Config": { "max-size": "1k", "max-file": "1" } });
    let container = engine.runtime.container(&create(&engine, SCRIPT, kept).await?).await?;
    container.start().await?;
    let mut log = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
    assert_eq!(log.next().await.ok_or("no line")??.bytes, "first\n");
    let place = log.cursor().ok_or("no place")?;
    drop(log);
    // There is no output since, so nothing is lost.
    assert!(container.logs(LogOptions::default().after(place)).await?.next().await.is_none());

    container.kill(Signal::USR1).await?;
    // A read during the writes may return the whole log, or a log that is cut in the middle.
    until("loss", async || {
        let next = container.logs(LogOptions::default().after(place)).await?.next().await;
        Ok(matches!(next, Some(Err(error)) if error.kind() == ErrorKind::Lost))
    })
    .await?;
    // The remaining log is read by its times.
    until("last line", async || {
        let log = container.logs(LogOptions::default().since(place.time)).await?;
        let records: Vec<_> = log.collect().await;
        let lines = records.iter().flatten().map(|record| &record.bytes);
        Ok(records.len() < 5000 && lines.last().is_some_and(|line| line == "5000\n"))
    })
    .await?;
    engine.finish().await
}

/// The engine's own follow loses or repeats lines when it rotates the log often.
#[tokio::test]
async fn follower_of_a_rotated_log_returns_each_line_once() -> Outcome {
    const LINES: usize = 20_000;
    let own = Own::up(OWN).await?;
    let engine = Engine::of_own(&own, scope(), Deadlines::default()).await?;
    for driver in ["json-file", "local"] {
        // The engine keeps the whole log, in some tens of files.
        let log = json!({ "Type": driver, "Config": {
            "max-size": "50k", "max-file": "200", "compress": "false"
        } });
        let script = format!("seq {LINES}; sleep 1; seq {LINES}");
        let container = engine.runtime.container(&create(&engine, &script, log).await?).await?;
        container.start().await?;
        let mut log = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
        let mut lines = 0;
        while let Some(record) = log.next().await {
            let line = format!("{}\n", lines % LINES + 1);
            assert_eq!(record?.bytes, line, "{driver}: line {lines}");
            lines += 1;
        }
        assert_eq!(lines, 2 * LINES, "{driver}");
    }
    engine.finish().await
}

async fn create(
    engine: &Engine,
    script: &str,
    log: serde_json::Value,
) -> Result<ContainerId, runtime_conformance::BoxError> {
    let image = engine.spec().image;
    let mut pull = engine.runtime.pull_image(&image, PullOptions::default()).await?;
    while let Some(event) = pull.next().await {
        event?;
    }
    let id = engine.raw.create(&json!({
        "Image": image.reference,
        "Cmd": ["sh", "-c", script],
        "Labels": { LABEL_MANAGED: "true", LABEL_SCOPE: engine.runtime.scope().to_string() },
        "HostConfig": { "LogConfig": log }
    }))?;
    Ok(ContainerId::new(id))
}
