//! An API server behind a balancer: the server vanishes or freezes, and idle connections are dropped.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_tests::Balancer;
use runtime_conformance::BoxError;
use runtime_core::{
    AttachOptions, Container, ContainerStatus, Deadlines, ErrorKind, ExecOptions, ExitReason,
    Follow, Interactive, ListOptions, LogOptions, Runtime, SessionMode,
};
use runtime_k8s::{KubernetesOptions, KubernetesRuntime};
use test_engines::Component;
use test_support::{Connection as _, until};
use tokio::time::{Instant, timeout};

use super::support::{Outcome, Subject, Waiter};

/// Time limit for an operation that has a deadline of its own.
const LIMIT: Duration = Duration::from_secs(60);

fn hasty(options: KubernetesOptions) -> KubernetesOptions {
    let mut deadlines = Deadlines::default();
    (deadlines.query, deadlines.connect) = (Duration::from_secs(4), Duration::from_secs(4));
    options.deadlines(deadlines)
}

async fn through(
    subject: &Subject,
    balancer: &Balancer,
    change: impl FnOnce(KubernetesOptions) -> KubernetesOptions,
) -> Result<KubernetesRuntime, BoxError> {
    let options = subject.environment.options(subject.runtime.scope());
    Ok(KubernetesRuntime::connect(change(options.kubeconfig(balancer.kubeconfig()))).await?)
}

async fn run(
    runtime: &KubernetesRuntime,
    subject: &Subject,
    script: &str,
) -> Result<Arc<dyn Container>, BoxError> {
    let container = runtime.create_container(&subject.script(script)).await?;
    container.start().await?;
    Ok(container)
}

/// The backend of a balancer vanishes and another takes over. No connection is closed.
#[tokio::test(flavor = "multi_thread")]
async fn backend_that_vanishes_is_replaced_by_another() -> Outcome {
    let subject = Subject::new().await?;
    let balancer = Balancer::start(&subject.environment.kubeconfig, None).await?;
    let runtime = through(&subject, &balancer, |options| options).await?;
    let container =
        run(&runtime, &subject, "while [ ! -e /end ]; do sleep 0.1; done; exit 7").await?;
    let waiter = Waiter::of(&container);
    assert_eq!(container.info().await?.status, ContainerStatus::Running);
    balancer.fail_over();
    let direct = subject.runtime.container(container.id()).await?;
    direct.exec(ExecOptions::new(["touch", "/end"])).await?.control.wait().await?;
    let exit = direct.wait().await?;
    assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(7)), "{exit:?}");
    // Neither call fails or reports the container as running for long.
    let ended = Instant::now();
    until("end of the container in its info", async || {
        let status = timeout(LIMIT, container.info()).await??.status;
        Ok(status == ContainerStatus::Exited)
    })
    .await?;
    println!("info: {:?}", ended.elapsed());
    let exit = waiter.answer(60).await??;
    println!("wait: {:?}", ended.elapsed());
    assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(7)), "{exit:?}");
    assert_eq!(timeout(LIMIT, runtime.list_containers(ListOptions::default())).await??.len(), 1);
    runtime.close().await?;
    subject.finish().await
}

/// The API server is frozen. Its kernel accepts connections, and no request is answered.
#[tokio::test(flavor = "multi_thread")]
async fn frozen_api_server_is_an_error_and_the_exit_is_seen_when_it_is_back() -> Outcome {
    let subject = Subject::new().await?;
    let balancer = Balancer::start(&subject.environment.kubeconfig, None).await?;
    let runtime = through(&subject, &balancer, hasty).await?;
    let container = run(&runtime, &subject, "sleep 3; exit 7").await?;
    let waiter = Waiter::of(&container);
    let server = subject.cluster.process(Component::ApiServer)?;
    server.freeze()?;
    let frozen = async {
        // A recent observation may still be returned.
        let error = loop {
            match timeout(LIMIT, container.info()).await? {
                Ok(info) => assert_eq!(info.status, ContainerStatus::Running),
                Err(error) => break error,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let away = |kind| matches!(kind, ErrorKind::Timeout | ErrorKind::Unavailable);
        assert!(away(error.kind()), "{error:?}");
        let listed = timeout(LIMIT, runtime.list_containers(ListOptions::default())).await?;
        let error = listed.expect_err("the server is frozen");
        assert!(away(error.kind()), "{error:?}");
        Ok::<_, BoxError>(())
    };
    let frozen = frozen.await;
    server.thaw()?;
    frozen?;
    assert!(!waiter.is_done(), "nobody can have known");
    let exit = waiter.answer(60).await??;
    assert_eq!((exit.reason, exit.code), (ExitReason::Exited, Some(7)), "{exit:?}");
    assert_eq!(container.info().await?.status, ContainerStatus::Exited);
    runtime.close().await?;
    subject.work(|cluster| Ok(cluster.wait_until_it_takes_pods()?)).await?;
    subject.finish().await
}

/// A vanished server blocks neither a cleanup nor a close.
#[tokio::test(flavor = "multi_thread")]
async fn close_is_not_held_by_a_server_that_has_vanished() -> Outcome {
    let subject = Subject::new().await?;
    let balancer = Balancer::start(&subject.environment.kubeconfig, None).await?;
    let runtime = through(&subject, &balancer, hasty).await?;
    let container = run(&runtime, &subject, "sleep 3600").await?;
    balancer.vanish();
    let created = timeout(Duration::from_secs(1), runtime.create_container(&subject.idle())).await;
    assert!(created.is_err(), "nothing answers");
    let waiter = Waiter::of(&container);
    timeout(LIMIT / 2, runtime.close()).await.expect("it does not end")?;
    assert_eq!(waiter.answer(5).await?.unwrap_err().kind(), ErrorKind::InvalidState);
    subject.finish().await
}

/// Quiet sessions and a quiet follower outlive the idle timeout of a balancer.
#[tokio::test(flavor = "multi_thread")]
async fn quiet_sessions_outlive_the_idle_limit_of_a_balancer() -> Outcome {
    let subject = Subject::new().await?;
    let idle = Some(Duration::from_secs(3));
    let plain = Balancer::start(&subject.environment.kubeconfig, idle).await?;
    let (relay, _watches) = subject.environment.forgetful().await?;
    let websocket = Balancer::start(&relay, idle).await?;
    let pings = |options: KubernetesOptions| options.session_pings(Duration::from_secs(1));
    for balancer in [&plain, &websocket] {
        let runtime = through(&subject, balancer, pings).await?;
        let spec = subject.script("read line; sleep 8; exit 5").interactive(Interactive::Stdin);
        let container = runtime.create_container(&spec).await?;
        container.start().await?;
        let mut attached =
            container.attach(AttachOptions::default().mode(SessionMode::Stdin)).await?;
        let session = container.exec(ExecOptions::new(["sh", "-c", "sleep 8; exit 3"])).await?;
        let mut reader = container.logs(LogOptions::default().follow(Follow::Yes)).await?;
        let input = attached.stdin.as_mut().ok_or("no standard input")?;
        input.write("\n".into()).await?;
        let (exit, end) =
            timeout(LIMIT, async { tokio::join!(session.control.wait(), attached.control.wait()) })
                .await?;
        assert_eq!((exit?.code, end?.code), (3, 5));
        while let Some(record) = timeout(LIMIT, reader.next()).await? {
            record?;
        }
        runtime.close().await?;
    }
    subject.finish().await
}
