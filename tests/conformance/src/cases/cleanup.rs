//! Creating under load and cancelled creates: no container is left incomplete.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use runtime_core::{ContainerExt as _, ListOptions};

use crate::case::cases;
use crate::failure::fail;
use crate::poll::{PATIENCE, lock, until};
use crate::random::random;
use crate::{Context, Outcome};

cases! { "create":
    dropped_at_any_point [] heavy long;
    dropped_while_it_pulls [];
}

/// Drops a hundred creates, each after another delay: the completed ones have a container, and the others
/// leave nothing.
async fn dropped_at_any_point(t: Context) -> Outcome {
    const CREATES: u32 = 100;
    const AT_ONCE: usize = 8;
    let begun = std::time::Instant::now();
    t.create(&t.spec()).await?.remove().await?;
    // The delays cover a little more than the duration of one create when several run.
    let span = (begun.elapsed() * 3).clamp(Duration::from_millis(30), Duration::from_secs(2));
    let kept = Mutex::new(BTreeSet::new());
    let spec = t.spec();
    stream::iter(0..CREATES)
        .for_each_concurrent(AT_ONCE, |_| async {
            let create = t.runtime().create_container(&spec);
            let most = u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
            let drop_at = Duration::from_micros(u64::from(random() % most));
            if let Ok(created) = tokio::time::timeout(drop_at, create).await {
                match created {
                    Ok(container) => {
                        lock(&kept).insert(container.id().clone());
                    }
                    Err(error) => panic!("a create failed: {error}"),
                }
            }
        })
        .await;
    let kept = std::mem::take(&mut *lock(&kept));
    assert!(kept.len() < CREATES as usize, "no create was dropped in {span:?}");
    // A request that was in flight when its create was dropped may be answered only now.
    until(PATIENCE, "the list of those that had ended", || async {
        let listed = t.runtime().list_containers(ListOptions::default()).await?;
        let listed: BTreeSet<_> = listed.into_iter().map(|listed| listed.info.id).collect();
        Ok((listed == kept).then_some(()))
    })
    .await?;
    for id in &kept {
        t.runtime().container(id).await?.ensure_removed().await?;
    }
    t.until_left(0).await
}

async fn dropped_while_it_pulls(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let spec = runtime_core::ContainerSpec::new(image).command(["true"]);
    for part in 0..4_u64 {
        let create = t.runtime().create_container(&spec);
        let ended = tokio::time::timeout(Duration::from_millis(1 + part * 10), create).await;
        if let Ok(Ok(container)) = ended {
            container.ensure_removed().await?;
        }
    }
    t.until_left(0).await?;
    let (_, exit) = t.run(&spec).await?;
    if !exit.success() {
        fail!("after the dropped creates the image does not run: {exit}");
    }
    Ok(())
}
