//! Listing: all containers of the scope and no others.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use runtime_core::{
    Capability, ContainerStatus, ErrorKind, EventsOptions, ListOptions, ReapOptions,
};

use crate::case::cases;
use crate::expect::refused;
use crate::{Context, Failure, Outcome};

cases! { "list":
    empty [];
    only_ours [Wait];
    by_label [];
    by_odd_labels [];
    after_remove [];
    five_hundred [] heavy long;
    two_scopes_do_not_see_each_other [Reattach];
    handles_of_a_list_work [Wait, Logs];
}

async fn names(t: &Context, options: ListOptions) -> Result<Vec<String>, Failure> {
    let listed = t.runtime().list_containers(options).await?;
    let mut names: Vec<_> = listed.into_iter().map(|listed| listed.info.name).collect();
    names.sort();
    Ok(names)
}

async fn empty(t: Context) -> Outcome {
    assert!(t.runtime().list_containers(ListOptions::default()).await?.is_empty());
    Ok(())
}

async fn only_ours(t: Context) -> Outcome {
    let other = t.connect_other_scope().await?;
    other.create_container(&t.idle()).await?;
    let created = t.create(&t.idle().label("which", "created")).await?;
    let running = t.ready(&t.idle().label("which", "running")).await?;
    let (exited, _) = t.run(&t.script("exit 3").label("which", "exited")).await?;

    let mut listed: BTreeMap<_, _> = t
        .runtime()
        .list_containers(ListOptions::default())
        .await?
        .into_iter()
        .map(|listed| (listed.info.id.clone(), listed))
        .collect();
    assert_eq!(listed.len(), 3);
    for (container, status) in [
        (created, ContainerStatus::Created),
        (running, ContainerStatus::Running),
        (exited, ContainerStatus::Exited),
    ] {
        let Some(listed) = listed.remove(container.id()) else {
            crate::failure::fail!("{status} is not listed");
        };
        assert_eq!(listed.info.status, status);
        assert_eq!(listed.info.name, container.name());
        assert_eq!(listed.container.id(), container.id());
        assert_eq!(listed.container.name(), container.name());
        let info = container.info().await?;
        assert_eq!(listed.info.labels, info.labels);
        let (short, exact) = (listed.info.created_at, info.created_at);
        if let (Some(short), Some(exact)) = (short, exact) {
            // A list may have a resolution of whole seconds.
            let away = exact.duration_since(short).unwrap_or_default();
            assert!(short <= exact && away.as_secs() < 1, "{short:?} {exact:?}");
        }
        // An exit in the list is optional, but must be correct.
        assert!(listed.info.exit.is_none() || listed.info.exit == info.exit);
        assert!(listed.info.started_at.is_none() || listed.info.started_at == info.started_at);
        assert!(listed.info.ended_at.is_none() || listed.info.ended_at == info.ended_at);
    }
    Ok(())
}

async fn by_label(t: Context) -> Outcome {
    let create = async |name: &str, labels: &[(&str, &str)]| -> Outcome {
        let mut spec = t.idle().name(format!("{name}-{}", t.scope()));
        for (key, value) in labels {
            spec = spec.label(*key, *value);
        }
        t.create(&spec).await?;
        Ok(())
    };
    create("aa", &[("job", "1"), ("kind", "x")]).await?;
    create("bb", &[("job", "1")]).await?;
    create("cc", &[("job", "2"), ("kind", "x")]).await?;
    create("dd", &[]).await?;
    let list = || ListOptions::default();
    for (options, wanted) in [
        (list(), "aa bb cc dd"),
        (list().label("job", "1"), "aa bb"),
        (list().label("job", "2"), "cc"),
        (list().has_label("job"), "aa bb cc"),
        (list().has_label("kind").label("job", "1"), "aa"),
        (list().label("job", "1").label("kind", "x"), "aa"),
        (list().label("job", ""), ""),
        (list().label("job", "3"), ""),
        (list().has_label("none"), ""),
    ] {
        let wanted: Vec<_> =
            wanted.split_whitespace().map(|name| format!("{name}-{}", t.scope())).collect();
        assert_eq!(names(&t, options.clone()).await?, wanted, "{options:?}");
    }
    Ok(())
}

/// Labels that no engine's own selector accepts.
async fn by_odd_labels(t: Context) -> Outcome {
    let odd = [
        ("a/b/c", "x/y"),
        ("with=equals", "a=b"),
        ("empty", ""),
        ("umlaut-ä", "日本 🦀"),
        ("long", &"v".repeat(500)),
    ];
    t.create(&t.idle()).await?;
    let mut spec = t.idle().name(t.name("odd"));
    for (key, value) in odd {
        spec = spec.label(key, value);
    }
    t.create(&spec).await?;
    for (key, value) in odd {
        let wanted: Vec<_> = spec.name.clone().into_iter().collect();
        assert_eq!(names(&t, ListOptions::default().label(key, value)).await?, wanted, "{key}");
        assert_eq!(names(&t, ListOptions::default().has_label(key)).await?, wanted, "{key}");
        let other = format!("{value}x");
        assert!(names(&t, ListOptions::default().label(key, other)).await?.is_empty(), "{key}");
    }
    Ok(())
}

async fn after_remove(t: Context) -> Outcome {
    let (one, two) = (t.create(&t.idle()).await?, t.start(&t.idle()).await?);
    assert_eq!(names(&t, ListOptions::default()).await?.len(), 2);
    one.remove().await?;
    assert_eq!(names(&t, ListOptions::default()).await?, [two.name()]);
    two.remove().await?;
    assert!(names(&t, ListOptions::default()).await?.is_empty());
    Ok(())
}

/// Lists five hundred containers, two hundred of which are created at once.
async fn five_hundred(t: Context) -> Outcome {
    let create = |number: u32| {
        let spec = t.spec().label("half", if number.is_multiple_of(2) { "even" } else { "odd" });
        let runtime = t.runtime();
        async move { Ok::<_, Failure>(runtime.create_container(&spec).await?.id().clone()) }
    };
    let mut created = try_join_all((0..200).map(create)).await?;
    assert_eq!(created.iter().collect::<BTreeSet<_>>().len(), 200);
    let more = stream::iter(200..500).map(create).buffer_unordered(8);
    created.extend(more.try_collect::<Vec<_>>().await?);
    let listed = t.runtime().list_containers(ListOptions::default()).await?;
    assert!(
        listed.is_sorted_by(|a, b| a.info.created_at >= b.info.created_at),
        "the newest do not come first"
    );
    let mut ids: Vec<_> = listed.into_iter().map(|listed| listed.info.id).collect();
    ids.sort();
    created.sort();
    assert_eq!(ids, created);
    assert_eq!(names(&t, ListOptions::default().label("half", "odd")).await?.len(), 250);
    Ok(())
}

async fn two_scopes_do_not_see_each_other(t: Context) -> Outcome {
    let other = t.connect_other_scope().await?;
    let mine = t.ready(&t.idle()).await?;
    let theirs = other.create_container(&t.idle()).await?;
    theirs.start().await?;

    refused(other.container(mine.id()).await, ErrorKind::NotFound)?;
    refused(t.runtime().container(theirs.id()).await, ErrorKind::NotFound)?;
    assert_eq!(names(&t, ListOptions::default()).await?, [mine.name()]);
    let ids = [mine.id().clone(), theirs.id().clone()];
    if t.has(Capability::BulkStats) {
        let stats = other.stats(&ids).await?;
        let seen: Vec<_> = stats.into_iter().map(|(id, _)| id).collect();
        assert_eq!(seen, [theirs.id().clone()]);
    }
    if t.has(Capability::Events) {
        let mut options = EventsOptions::default();
        if t.has(Capability::EventsSince) {
            let since = mine.info().await?.created_at.unwrap_or(std::time::UNIX_EPOCH);
            options = options.since(since);
        }
        let mut events = t.runtime().events(options).await?;
        theirs.remove().await?;
        mine.remove().await?;
        // The container of this scope is removed last, so an event of the other container would precede its
        // removal.
        loop {
            let Some(event) = events.next().await else {
                crate::failure::fail!("the events have ended");
            };
            let event = event?;
            assert_eq!(&event.container, mine.id());
            if event.kind == runtime_core::EventKind::Removed {
                break;
            }
        }
    }
    if t.has(Capability::Reap) {
        let kept = t.create(&t.idle()).await?;
        other.create_container(&t.idle()).await?;
        let report = other.reap(ReapOptions::default()).await?;
        assert!(report.failed.is_empty(), "{report:?}");
        assert_eq!(kept.info().await?.status, ContainerStatus::Created);
    }
    Ok(())
}

async fn handles_of_a_list_work(t: Context) -> Outcome {
    t.create(&t.script("echo out; exit 4")).await?;
    let listed = t.connect().await?.list_containers(ListOptions::default()).await?;
    assert_eq!(listed.len(), 1);
    let container = &listed[0].container;
    container.start().await?;
    assert_eq!(container.wait().await?.code, Some(4));
    assert_eq!(t.text(&**container).await?, "out\n");
    container.remove().await?;
    Ok(())
}
