//! The connection itself.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt as _, poll};
use runtime_core::{
    Bytes, Capability, CopyInOptions, CopyOutOptions, ErrorKind, ExecOptions, ListOptions,
    LogOptions, PullPolicy, SessionMode, StopOptions,
};

use crate::case::cases;
use crate::expect::refused;
use crate::failure::fail;
use crate::poll::lock;
use crate::random::random;
use crate::{Context, Outcome, trace};

cases! { "runtime":
    health_says_who_is_there [];
    knows_its_scope_and_backend [];
    close_ends_every_use [];
    close_ends_what_is_under_way [Wait];
    close_undoes_what_is_half_made [] exclusive;
    drop_leaves_containers_alone [Reattach];
    secrets_are_in_no_log [Exec] exclusive;
}

async fn health_says_who_is_there(t: Context) -> Outcome {
    let health = t.runtime().health().await?;
    assert_eq!(health.backend, t.runtime().backend());
    assert!(!health.engine.is_empty() && !health.version.is_empty(), "{health:?}");
    assert_eq!(&health.capabilities, t.capabilities());
    assert!(health.warnings.iter().all(|warning| !warning.trim().is_empty()));
    let json = serde_json::to_string(&health)?;
    assert_eq!(serde_json::from_str::<runtime_core::Health>(&json)?, health);
    Ok(())
}

async fn knows_its_scope_and_backend(t: Context) -> Outcome {
    assert_eq!(t.runtime().scope(), t.scope());
    assert!(!t.runtime().backend().is_empty());
    assert!(
        Capability::ALL.iter().any(|&capability| t.has(capability)),
        "a connected engine can do something"
    );
    Ok(())
}

async fn close_ends_every_use(t: Context) -> Outcome {
    let runtime = t.connect().await?;
    let container = runtime.create_container(&t.idle()).await?;
    runtime.close().await?;
    runtime.close().await?;
    refused(runtime.health().await, ErrorKind::InvalidState)?;
    refused(runtime.list_containers(ListOptions::default()).await, ErrorKind::InvalidState)?;
    refused(runtime.create_container(&t.idle()).await, ErrorKind::InvalidState)?;
    refused(container.info().await, ErrorKind::InvalidState)?;
    refused(container.start().await, ErrorKind::InvalidState)?;
    if t.has(Capability::Logs) {
        refused(container.logs(LogOptions::default()).await, ErrorKind::InvalidState)?;
        refused(container.raw_logs().await.map(drop), ErrorKind::InvalidState)?;
    }
    refused(container.stop(StopOptions::default()).await, ErrorKind::InvalidState)?;
    // The container still exists at the engine.
    let listed = t.runtime().list_containers(ListOptions::default()).await?;
    assert_eq!(listed.len(), 1);
    Ok(())
}

async fn close_ends_what_is_under_way(t: Context) -> Outcome {
    let runtime = t.connect().await?;
    let container = runtime.create_container(&t.idle()).await?;
    container.start().await?;
    let mut wait = container.wait();
    if poll!(wait.as_mut()).is_ready() {
        fail!("the container runs, and the wait has ended");
    }
    runtime.close().await?;
    let Ok(waited) = tokio::time::timeout(crate::poll::PATIENCE, wait).await else {
        fail!("a waiter goes on after the close");
    };
    refused(waited, ErrorKind::InvalidState)?;
    Ok(())
}

/// Creates that are in progress or dropped when the runtime is closed are complete or undone. After the close
/// nothing could undo them.
async fn close_undoes_what_is_half_made(t: Context) -> Outcome {
    const AT_ONCE: usize = 4;
    let spec = t.spec();
    let begun = Instant::now();
    t.create(&spec).await?.remove().await?;
    let span = begun.elapsed().clamp(Duration::from_millis(20), Duration::from_secs(2));
    let ended = Mutex::new(Vec::new());
    for round in 0..6 {
        let runtime = t.connect().await?;
        // A completed create counts, even if the others are dropped.
        let mut creates = Box::pin(join_all((0..AT_ONCE).map(|_| async {
            let created = runtime.create_container(&spec).await;
            lock(&ended).push(created);
        })));
        let microseconds = u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
        let close_at = Duration::from_micros(u64::from(random() % microseconds));
        if tokio::time::timeout(close_at, &mut creates).await.is_err() {
            if round % 2 == 0 {
                drop(creates);
            } else {
                tokio::join!(creates, runtime.close()).1?;
            }
        }
        runtime.close().await?;
    }
    let mut whole = 0;
    for created in lock(&ended).drain(..) {
        match created {
            Ok(_) => whole += 1,
            Err(error) if error.kind() == ErrorKind::InvalidState => {}
            Err(error) => fail!("a create that was closed over failed with {error:?}"),
        }
    }
    t.until_left(whole).await
}

async fn drop_leaves_containers_alone(t: Context) -> Outcome {
    let runtime = t.connect().await?;
    let container = runtime.create_container(&t.idle()).await?;
    container.start().await?;
    let id = container.id().clone();
    drop((container, runtime));
    let info = t.runtime().container(&id).await?.info().await?;
    assert_eq!(info.status, runtime_core::ContainerStatus::Running);
    Ok(())
}

/// Logins, variables, files and input of a process do not appear in any log output at any level, by this
/// library or its dependencies.
async fn secrets_are_in_no_log(t: Context) -> Outcome {
    let secret = format!("hunter2-{}", t.scope());
    let recording = trace::record()?;
    let used = use_secret(&t, &secret).await;
    let text = recording.finish();
    used?;
    assert!(text.lines().count() > 10, "next to nothing was logged: {text}");
    let secrets = t.subject().secrets();
    for secret in secrets.iter().chain([&secret]) {
        if let Some(line) = text.lines().find(|line| trace::shows(line, secret)) {
            fail!("a secret is logged: {line}");
        }
    }
    Ok(())
}

async fn use_secret(t: &Context, secret: &str) -> Outcome {
    let runtime = t.connect().await?;
    let spec = t.idle().env("DB_PASSWORD", secret).pull_policy(PullPolicy::Always);
    let container = runtime.create_container(&spec).await?;
    container.start().await?;
    t.until_logged(&*container, "ready").await?;
    container.info().await?;
    let mut exec = ExecOptions::new(["cat"]).mode(SessionMode::Stdin);
    if t.has(Capability::ExecEnv) {
        exec = exec.env("DB_PASSWORD", secret);
    }
    let mut session = container.exec(exec).await?;
    let Some(mut stdin) = session.stdin.take() else { fail!("there is no standard input") };
    stdin.write(Bytes::from(secret.to_owned())).await?;
    let Some(echo) = session.stdout.next().await else { fail!("cat says nothing") };
    assert_eq!(echo?, secret.as_bytes());
    drop((stdin, session));
    if t.has(Capability::CopyIn) && t.has(Capability::CopyOut) {
        let archive = super::files::one_file("secret", secret.as_bytes())?;
        container.copy_in("/srv", archive, CopyInOptions::default()).await?;
        let mut back = container.copy_out("/srv/secret", CopyOutOptions::default()).await?;
        while let Some(piece) = back.next().await {
            piece?;
        }
    }
    container.remove().await?;
    runtime.close().await?;
    Ok(())
}
