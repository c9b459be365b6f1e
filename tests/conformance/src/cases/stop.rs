//! Stopping: a signal, a grace period, a kill; logs and exit remain readable.

use std::time::{Duration, Instant};

use runtime_core::{
    Capability, Container, ContainerStatus, Exit, ExitReason, Signal, StartOutcome, StopOptions,
    StopOutcome,
};

use crate::case::cases;
use crate::expect::took;
use crate::failure::fail;
use crate::{Context, Failure, Outcome};

cases! { "stop":
    instant [StopImmediately, StopGraceOverride, Logs];
    graceful [Logs];
    delayed_kill [StopGraceOverride];
    grace_of_the_create [];
    no_grace_given [];
    sub_second_grace [Logs];
    sub_second_override [StopGraceOverride, Logs];
    signal_of_the_create [StopSignal, Logs];
    twice [];
    from_many_tasks [];
    the_shortest_grace_counts [StopGraceOverride];
    on_created [Wait];
    on_exited [Wait];
    after_a_dropped_stop [Wait];
    everything_is_readable_after [Logs, Wait];
}

const SLACK: Duration = Duration::from_secs(15);

fn grace(grace: Duration) -> StopOptions {
    StopOptions::default().grace(grace)
}

/// Returns the exit of a container that this call has stopped.
async fn stopped(container: &dyn Container, options: StopOptions) -> Result<Exit, Failure> {
    match container.stop(options).await? {
        StopOutcome::Stopped(exit) => {
            assert_eq!(exit.reason, ExitReason::StoppedByUs);
            Ok(exit)
        }
        outcome => fail!("it was running, and the outcome is {outcome:?}"),
    }
}

async fn instant(t: Context) -> Outcome {
    let container = t.ready(&t.graceful().stop_grace(Duration::from_secs(60))).await?;
    let begun = Instant::now();
    let exit = stopped(&*container, grace(Duration::ZERO)).await?;
    took(begun, Duration::ZERO, SLACK)?;
    assert_eq!((exit.code, exit.signal), (Some(137), Some(Signal::KILL)));
    assert_eq!(t.text(&*container).await?, "ready\n", "the TERM handler had no time");
    Ok(())
}

async fn graceful(t: Context) -> Outcome {
    let container = t.ready(&t.graceful().stop_grace(Duration::from_secs(60))).await?;
    let begun = Instant::now();
    let exit = stopped(&*container, StopOptions::default()).await?;
    took(begun, Duration::ZERO, SLACK)?;
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    assert_eq!(t.text(&*container).await?, "ready\nbye\n");
    Ok(())
}

async fn delayed_kill(t: Context) -> Outcome {
    let container = t.ready(&t.idle().stop_grace(Duration::from_secs(60))).await?;
    let begun = Instant::now();
    let exit = stopped(&*container, grace(Duration::from_secs(2))).await?;
    took(begun, Duration::from_millis(1900), SLACK)?;
    assert_eq!(exit.code, Some(137));
    Ok(())
}

async fn grace_of_the_create(t: Context) -> Outcome {
    let container = t.ready(&t.idle().stop_grace(Duration::from_secs(3))).await?;
    let begun = Instant::now();
    let exit = stopped(&*container, StopOptions::default()).await?;
    took(begun, Duration::from_millis(2900), Duration::from_secs(9))?;
    assert_eq!(exit.code, Some(137));
    Ok(())
}

async fn no_grace_given(t: Context) -> Outcome {
    let container = t.ready(&t.idle()).await?;
    let begun = Instant::now();
    let exit = stopped(&*container, StopOptions::default()).await?;
    took(begun, Duration::from_millis(9900), Duration::from_secs(10) + SLACK)?;
    assert_eq!(exit.code, Some(137));
    Ok(())
}

/// Script that takes a fraction of a second to exit: a grace of half a second, rounded down, would kill it.
const TAKES_ITS_TIME: &str =
    "trap 'sleep 0.2; echo bye; exit 7' TERM; echo ready; sleep 3600 & wait";

async fn sub_second_grace(t: Context) -> Outcome {
    let spec = t.script(TAKES_ITS_TIME).stop_grace(Duration::from_millis(500));
    let container = t.ready(&spec).await?;
    let exit = stopped(&*container, StopOptions::default()).await?;
    assert_eq!((exit.code, t.text(&*container).await?.as_str()), (Some(7), "ready\nbye\n"));
    Ok(())
}

async fn sub_second_override(t: Context) -> Outcome {
    let container = t.ready(&t.script(TAKES_ITS_TIME)).await?;
    let exit = stopped(&*container, grace(Duration::from_millis(500))).await?;
    assert_eq!((exit.code, t.text(&*container).await?.as_str()), (Some(7), "ready\nbye\n"));
    Ok(())
}

async fn signal_of_the_create(t: Context) -> Outcome {
    let script = "trap 'echo got USR1; exit 4' USR1; trap 'echo got TERM; exit 5' TERM; \
                  echo ready; sleep 3600 & wait";
    let container = t.ready(&t.script(script).stop_signal(Signal::USR1)).await?;
    let exit = stopped(&*container, StopOptions::default()).await?;
    assert_eq!(exit.code, Some(4));
    assert_eq!(t.text(&*container).await?, "ready\ngot USR1\n");
    Ok(())
}

async fn twice(t: Context) -> Outcome {
    let container = t.ready(&t.graceful()).await?;
    let exit = stopped(&*container, StopOptions::default()).await?;
    let second = container.stop(StopOptions::default()).await?;
    assert_eq!(second, StopOutcome::AlreadyExited(exit));
    Ok(())
}

async fn from_many_tasks(t: Context) -> Outcome {
    let container = t.ready(&t.graceful()).await?;
    let stops = (0..5).map(|_| container.stop(StopOptions::default()));
    let outcomes = futures_util::future::try_join_all(stops).await?;
    let exit = container.info().await?.exit;
    assert_eq!(exit.as_ref().and_then(|exit| exit.code), Some(7));
    for outcome in outcomes {
        match outcome {
            StopOutcome::Stopped(seen) | StopOutcome::AlreadyExited(seen) => {
                assert_eq!(Some(&seen), exit.as_ref());
            }
            outcome => fail!("{outcome:?}"),
        }
    }
    Ok(())
}

async fn the_shortest_grace_counts(t: Context) -> Outcome {
    let container = t.ready(&t.idle().stop_grace(Duration::from_secs(120))).await?;
    let begun = Instant::now();
    let long = container.stop(StopOptions::default());
    let short = container.stop(grace(Duration::from_secs(1)));
    let (long, short) = tokio::join!(long, short);
    took(begun, Duration::from_millis(900), Duration::from_secs(30))?;
    for outcome in [long?, short?] {
        match outcome {
            StopOutcome::Stopped(exit) | StopOutcome::AlreadyExited(exit) => {
                assert_eq!((exit.code, exit.reason), (Some(137), ExitReason::StoppedByUs));
            }
            outcome => fail!("{outcome:?}"),
        }
    }
    Ok(())
}

async fn on_created(t: Context) -> Outcome {
    let container = t.create(&t.script("exit 3")).await?;
    assert_eq!(container.stop(StopOptions::default()).await?, StopOutcome::NotStarted);
    assert_eq!(container.info().await?.status, ContainerStatus::Created);
    assert_eq!(container.start().await?, StartOutcome::Started);
    let exit = container.wait().await?;
    assert_eq!((exit.code, exit.reason), (Some(3), ExitReason::Exited), "the stop was nothing");
    Ok(())
}

async fn on_exited(t: Context) -> Outcome {
    let (container, exit) = t.run(&t.script("exit 3")).await?;
    let outcome = container.stop(StopOptions::default()).await?;
    assert_eq!(outcome, StopOutcome::AlreadyExited(exit.clone()));
    assert_eq!(container.info().await?.exit, Some(exit), "the stop was nothing");
    Ok(())
}

async fn after_a_dropped_stop(t: Context) -> Outcome {
    let container = t.ready(&t.idle().stop_grace(Duration::from_secs(2))).await?;
    let stop = container.stop(StopOptions::default());
    assert!(tokio::time::timeout(Duration::from_millis(100), stop).await.is_err());
    // The container may be running or not; in both cases it can be stopped now.
    container.stop(StopOptions::default()).await?;
    let exit = container.wait().await?;
    assert_eq!((exit.code, exit.reason), (Some(137), ExitReason::StoppedByUs));
    Ok(())
}

async fn everything_is_readable_after(t: Context) -> Outcome {
    let script = "trap 'echo last words; exit 7' TERM; seq 1 1000; echo ready; sleep 3600 & wait";
    let container = t.ready(&t.script(script).label("a", "b")).await?;
    let exit = stopped(&*container, StopOptions::default()).await?;
    let info = container.info().await?;
    assert_eq!(info.status, ContainerStatus::Exited);
    assert_eq!(info.exit.as_ref(), Some(&exit));
    assert!(info.started_at.is_some() && info.ended_at == exit.ended_at);
    assert_eq!(info.labels.get("a").map(String::as_str), Some("b"));
    assert_eq!(container.wait().await?, exit);
    let text = t.text(&*container).await?;
    assert_eq!(text.lines().count(), 1002);
    assert!(text.ends_with("1000\nready\nlast words\n"), "{}", &text[text.len() - 40..]);
    if t.has(Capability::Reattach) {
        let other = t.connect().await?.container(container.id()).await?;
        assert_eq!(t.text(&*other).await?, text);
        assert_eq!(other.info().await?.status, ContainerStatus::Exited);
    }
    Ok(())
}
