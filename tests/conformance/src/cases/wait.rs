//! Waiting: every waiter gets the same correct exit.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, future, poll};
use runtime_core::{Container, ErrorKind, Exit, ExitReason, Signal, StopOptions};

use crate::case::cases;
use crate::expect::{recent, refused};
use crate::failure::fail;
use crate::poll::PATIENCE;
use crate::{Context, Failure, Outcome};

cases! { "wait":
    before_the_start [Wait];
    while_running [Wait, Kill];
    after_the_exit [Wait];
    same_answer_for_every_handle [Wait, Reattach];
    a_thousand_waiters [Wait, Kill];
    many_containers [Wait] heavy;
    cancelled_waiters [Wait, Kill];
    removed_before_the_start [Wait];
    removed_while_running [Wait];
    removed_before_the_wait [Wait];
    out_of_memory [Wait, OomReason, MemoryLimit, Reattach];
    out_of_memory_of_a_child [Wait, MemoryLimit];
    out_of_memory_is_not_guessed [Wait, MemoryLimit];
    killed_by_signal [Wait, Kill];
    stopped_by_us [Wait];
}

type Waiter = tokio::task::JoinHandle<runtime_core::Result<Exit>>;

/// Spawns a waiter task and returns it when the wait has begun.
async fn waiter(container: &Arc<dyn Container>) -> Result<Waiter, Failure> {
    let container = Arc::clone(container);
    let (begun, begins) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut wait = container.wait();
        let first = poll!(wait.as_mut());
        let _ = begun.send(());
        match first {
            std::task::Poll::Ready(exit) => exit,
            std::task::Poll::Pending => wait.await,
        }
    });
    begins.await?;
    Ok(task)
}

/// Returns the exit of a waiter, which must complete in time.
async fn answer(waiter: Waiter) -> Result<Exit, Failure> {
    match tokio::time::timeout(PATIENCE, waiter).await {
        Ok(exit) => Ok(exit??),
        Err(_) => fail!("a waiter has no answer"),
    }
}

async fn before_the_start(t: Context) -> Outcome {
    let container = t.create(&t.script("exit 9")).await?;
    let waiter = waiter(&container).await?;
    // A request that is sent after the wait has begun is answered before the start.
    container.info().await?;
    assert!(!waiter.is_finished(), "a container that was not started has ended");
    container.start().await?;
    let exit = answer(waiter).await?;
    assert_eq!((exit.code, exit.reason), (Some(9), ExitReason::Exited));
    assert_eq!(container.wait().await?, exit);
    Ok(())
}

async fn while_running(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let waiter = waiter(&container).await?;
    container.info().await?;
    assert!(!waiter.is_finished(), "a container that runs has ended");
    container.kill(Signal::KILL).await?;
    assert_eq!(answer(waiter).await?.code, Some(137));
    Ok(())
}

async fn after_the_exit(t: Context) -> Outcome {
    let (container, exit) = t.run(&t.script("exit 11")).await?;
    assert_eq!(exit.code, Some(11));
    recent("the end time", exit.ended_at)?;
    for _ in 0..3 {
        assert_eq!(container.wait().await?, exit);
    }
    assert_eq!(container.info().await?.exit, Some(exit));
    Ok(())
}

async fn same_answer_for_every_handle(t: Context) -> Outcome {
    let container = t.create(&t.script("exit 12")).await?;
    let other = t.connect().await?;
    let early = waiter(&other.container(container.id()).await?).await?;
    let same = waiter(&t.runtime().container(container.id()).await?).await?;
    container.start().await?;
    let exit = container.wait().await?;
    let late = t.connect().await?.container(container.id()).await?.wait().await?;
    for seen in [answer(early).await?, answer(same).await?, late] {
        assert_eq!(seen, exit);
    }
    Ok(())
}

async fn a_thousand_waiters(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let mut waiters = Vec::new();
    for _ in 0..1000 {
        waiters.push(waiter(&container).await?);
    }
    container.kill(Signal::KILL).await?;
    let first = container.wait().await?;
    assert_eq!(first.code, Some(137));
    for waiter in waiters {
        assert_eq!(answer(waiter).await?, first);
    }
    Ok(())
}

async fn many_containers(t: Context) -> Outcome {
    let codes: Vec<i32> = (0..20).collect();
    let containers = future::try_join_all(codes.iter().map(async |code| {
        let container = t.create(&t.script(&format!("exit {code}"))).await?;
        let waiter = waiter(&container).await?;
        Ok::<_, Failure>((container, waiter))
    }))
    .await?;
    future::try_join_all(containers.iter().map(|(container, _)| container.start())).await?;
    for ((_, waiter), code) in containers.into_iter().zip(codes) {
        assert_eq!(answer(waiter).await?.code, Some(code));
    }
    Ok(())
}

/// A cancelled waiter does not affect the other waiters.
async fn cancelled_waiters(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    for _ in 0..3 {
        let wait = container.wait();
        assert!(tokio::time::timeout(Duration::from_millis(20), wait).await.is_err());
    }
    let mut waiters = Vec::new();
    for _ in 0..20 {
        waiters.push(waiter(&container).await?);
    }
    let keep = waiters.split_off(10);
    for waiter in waiters {
        waiter.abort();
        assert!(waiter.await.is_err_and(|error| error.is_cancelled()));
    }
    container.kill(Signal::KILL).await?;
    for waiter in keep {
        assert_eq!(answer(waiter).await?.code, Some(137));
    }
    Ok(())
}

async fn removed_before_the_start(t: Context) -> Outcome {
    let container = t.create(&t.idle()).await?;
    let (one, two) = (waiter(&container).await?, waiter(&container).await?);
    container.remove().await?;
    for waiter in [one, two] {
        let exit = answer(waiter).await?;
        assert_eq!((exit.code, exit.reason), (None, ExitReason::Removed));
    }
    Ok(())
}

/// The removal kills the container: a waiter that sees the kill first returns that exit, and otherwise the
/// reason Removed.
async fn removed_while_running(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let (one, two) = (waiter(&container).await?, waiter(&container).await?);
    container.remove().await?;
    let (one, two) = (answer(one).await?, answer(two).await?);
    assert_eq!(one, two);
    assert!(
        matches!(
            (one.code, one.reason),
            (None, ExitReason::Removed) | (Some(137), ExitReason::Signaled)
        ),
        "{one:?}"
    );
    Ok(())
}

async fn removed_before_the_wait(t: Context) -> Outcome {
    let (container, _) = t.run(&t.script("exit 0")).await?;
    container.remove().await?;
    // Only a waiter from before the removal may return the exit.
    let other = t.create(&t.idle()).await?;
    other.remove().await?;
    refused(other.wait().await, ErrorKind::NotFound)?;
    Ok(())
}

async fn out_of_memory(t: Context) -> Outcome {
    let (container, exit) = t.out_of_memory().await?;
    assert_eq!(exit.code, Some(137));
    assert_eq!(container.info().await?.exit.as_ref(), Some(&exit));
    // The result depends neither on the connection that has seen the exit nor on the time of the call.
    let other = t.connect().await?.container(container.id()).await?;
    assert_eq!(other.info().await?.exit.as_ref(), Some(&exit));
    assert_eq!(other.wait().await?, exit);
    Ok(())
}

/// The main process continues and exits normally, unless the whole cgroup is killed together.
async fn out_of_memory_of_a_child(t: Context) -> Outcome {
    let (_, exit) = t.run(&t.script("tail /dev/zero; exit 3").memory(16 << 20)).await?;
    if exit.code != Some(137) {
        assert_eq!((exit.code, exit.reason), (Some(3), ExitReason::Exited), "{exit:?}");
    }
    Ok(())
}

async fn out_of_memory_is_not_guessed(t: Context) -> Outcome {
    let (_, exit) = t.run(&t.script("exit 137").memory(64 << 20)).await?;
    assert_eq!((exit.code, exit.reason), (Some(137), ExitReason::Signaled));
    Ok(())
}

async fn killed_by_signal(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    container.kill(Signal::KILL).await?;
    let exit = container.wait().await?;
    assert_eq!(
        (exit.code, exit.reason, exit.signal),
        (Some(137), ExitReason::Signaled, Some(Signal::KILL))
    );
    Ok(())
}

async fn stopped_by_us(t: Context) -> Outcome {
    let container = t.ready(&t.graceful()).await?;
    let waiter = waiter(&container).await?;
    container.stop(StopOptions::default()).await?;
    let exit = answer(waiter).await?;
    assert_eq!((exit.code, exit.reason), (Some(7), ExitReason::StoppedByUs));
    assert_eq!(container.wait().now_or_never().transpose()?.unwrap_or(exit.clone()), exit);
    assert_eq!(container.info().await?.exit, Some(exit));
    Ok(())
}
