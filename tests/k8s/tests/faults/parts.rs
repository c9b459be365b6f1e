//! Parts of the cluster go away and come back while containers run.

use std::time::Duration;

use futures_util::StreamExt as _;
use runtime_core::{
    Container, ContainerStatus, ExitReason, Follow, LogOptions, Runtime, StartOutcome,
};
use test_engines::Component;
use test_support::{Connection as _, PATIENCE};
use tokio::time::Instant;

use super::support::{Outcome, Subject, Waiter};

/// Etcd does not answer for ten seconds. Who waits goes on, who asks is told to come again, and
/// what ended meanwhile has ended that way.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_away_for_ten_seconds() -> Outcome {
    let subject = Subject::new().await?;
    let short = subject.start(&subject.script("sleep 5; exit 7")).await?;
    let long = subject.start(&subject.script("sleep 3600")).await?;
    let (short_waiter, long_waiter) = (Waiter::of(&short), Waiter::of(&long));
    let etcd = subject.cluster.process(Component::Etcd)?;
    etcd.freeze()?;
    let back = Instant::now() + Duration::from_secs(10);
    let spec = subject.script("true");
    let created = tokio::time::timeout_at(back, subject.runtime.create_container(&spec)).await;
    if let Ok(Err(error)) = &created {
        assert!(error.is_retryable(), "{error:?}");
    }
    tokio::time::sleep_until(back).await;
    etcd.thaw()?;
    let exit = short_waiter.answer(60).await??;
    assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(7)));
    assert!(!long_waiter.is_done(), "it still runs");
    assert_eq!(long.info().await?.status, ContainerStatus::Running);
    // What was asked of a server that could not do it then is not done later.
    let kept = usize::from(matches!(&created, Ok(Ok(_))));
    subject.until_left(2 + kept, PATIENCE).await?;
    subject.finish().await
}

/// The kubelet is killed and started again under running containers: nothing happens to them, a
/// follower loses no line and has none twice, and what ended meanwhile has its true exit.
#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_is_restarted_under_running_containers() -> Outcome {
    let subject = Subject::new().await?;
    let counting = "for i in $(seq 150); do echo $i; sleep 0.1; done; exit 4";
    let counter = subject.start(&subject.script(counting)).await?;
    let short = subject.start(&subject.script("sleep 2; exit 9")).await?;
    let idle = subject.start(&subject.script("sleep 3600")).await?;
    let waiters = [Waiter::of(&counter), Waiter::of(&short)];
    let mut reader = counter.logs(LogOptions::default().follow(Follow::Yes)).await?;
    let follower = tokio::spawn(async move {
        let mut text = String::new();
        while let Some(record) = reader.next().await {
            text.push_str(&String::from_utf8_lossy(&record?.bytes));
        }
        Ok::<_, runtime_core::Error>(text)
    });
    subject
        .work(|cluster| {
            cluster.kill(Component::Kubelet)?;
            std::thread::sleep(Duration::from_secs(4));
            cluster.restart(Component::Kubelet)?;
            Ok(cluster.wait_until_ready()?)
        })
        .await?;
    for (waiter, code) in waiters.into_iter().zip([4, 9]) {
        let exit = waiter.answer(60).await??;
        assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(code)));
    }
    let text = tokio::time::timeout(Duration::from_secs(30), follower).await???;
    let expected: String = (1..=150).map(|i| format!("{i}\n")).collect();
    assert_eq!(text, expected);
    assert_eq!(idle.info().await?.status, ContainerStatus::Running);
    assert_eq!(idle.start().await?, StartOutcome::AlreadyStarted);
    subject.finish().await
}
