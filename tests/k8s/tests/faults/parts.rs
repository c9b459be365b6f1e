//! Parts of the cluster stop and restart while containers run.

use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_tests::{Raw, Watches};
use runtime_core::{
    Container, ContainerStatus, Deadlines, ErrorKind, ExitReason, Follow, LABEL_SCOPE, LogOptions,
    ReapOptions, Runtime, StartOutcome,
};
use runtime_k8s::KubernetesRuntime;
use test_engines::Component;
use test_support::{Connection as _, PATIENCE, until};
use tokio::time::Instant;

use super::support::{Outcome, Subject, Waiter, scope};

/// Etcd does not answer for ten seconds. Waiters continue, other calls fail with a retryable error, and a
/// container that exits meanwhile has the right exit.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_away_for_ten_seconds() -> Outcome {
    let subject = Subject::new().await?;
    let short = subject.start(&subject.script("sleep 5; exit 7")).await?;
    let long = subject.start(&subject.script("sleep 3600")).await?;
    let (short_waiter, long_waiter) = (Waiter::of(&short), Waiter::of(&long));
    // Its deadlines are shorter than the outage.
    let other = scope();
    let mut deadlines = Deadlines::default();
    (deadlines.create, deadlines.query) = (Duration::from_secs(3), Duration::from_secs(3));
    let options = subject.environment.options(&other).deadlines(deadlines);
    let hasty = KubernetesRuntime::connect(options).await?;
    let etcd = subject.cluster.process(Component::Etcd)?;
    etcd.freeze()?;
    let back = Instant::now() + Duration::from_secs(10);
    let spec = subject.script("true");
    let asked = async {
        let hasty_create = hasty.create_container(&spec);
        let hasty_reap = hasty.reap(ReapOptions::default());
        let (created, reaped) = tokio::join!(hasty_create, hasty_reap);
        [created.map(drop), reaped.map(drop)]
    };
    let patient = tokio::time::timeout_at(back, subject.runtime.create_container(&spec));
    let (asked, created) = tokio::join!(tokio::time::timeout_at(back, asked), patient);
    tokio::time::sleep_until(back).await;
    etcd.thaw()?;
    for answer in asked? {
        let error = answer.expect_err("etcd does not answer");
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error:?}");
        assert!(error.is_retryable(), "{error:?}");
    }
    if let Ok(Err(error)) = &created {
        assert!(error.is_retryable(), "{error:?}");
    }
    let exit = short_waiter.answer(60).await??;
    assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(7)));
    assert!(!long_waiter.is_done(), "it still runs");
    assert_eq!(long.info().await?.status, ContainerStatus::Running);
    // A request that failed during the outage must not be executed later.
    let kept = usize::from(matches!(&created, Ok(Ok(_))));
    subject.until_left(2 + kept, PATIENCE).await?;
    let raw = Raw::new(&subject.admin(), &subject.environment.namespace).await?;
    let selector = format!("{LABEL_SCOPE}={other}");
    until("end of what was given up", async || Ok(raw.listing(&selector).await?.is_empty()))
        .await?;
    hasty.close().await?;
    subject.finish().await
}

/// The kubelet is killed and restarted under running containers: they are not affected, a follower neither
/// loses nor repeats a line, and a container that exits meanwhile has the right exit.
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

/// The server has dropped the events since the last one of the watch: the new list shows the removed
/// container as removed, and the other one continues.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_forgets_what_happened() -> Outcome {
    let subject = Subject::new().await?;
    let (kubeconfig, watches) = subject.environment.forgetful().await?;
    let options = subject.environment.options(subject.runtime.scope());
    let runtime = KubernetesRuntime::connect(options.kubeconfig(kubeconfig.to_path_buf())).await?;
    let mut waiters = Vec::new();
    let mut containers = Vec::new();
    for _ in 0..2 {
        let container = runtime.create_container(&subject.idle()).await?;
        container.start().await?;
        waiters.push(Waiter::of(&container));
        containers.push(container);
    }
    let (goes, stays) = (&containers[0], &containers[1]);

    watches.send(Watches::Silent)?;
    subject.runtime.container(goes.id()).await?.remove().await?;
    subject.until_left(1, PATIENCE).await?;
    assert!(waiters.iter().all(|waiter| !waiter.is_done()), "nobody has said anything");
    watches.send(Watches::Expired)?;
    let exit = waiters.remove(0).answer(30).await??;
    assert_eq!((exit.reason, exit.code), (ExitReason::Removed, None), "{exit:?}");
    assert_eq!(stays.info().await?.status, ContainerStatus::Running);
    assert!(waiters.iter().all(|waiter| !waiter.is_done()), "it runs on");
    runtime.close().await?;
    subject.finish().await
}
