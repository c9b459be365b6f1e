//! Pulling images.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use runtime_core::{
    ContainerSpec, ErrorKind, ExitReason, Image, PullEvent, PullOptions, PullPolicy, PullStream,
    PullSummary, RegistryAuth, Runtime, RuntimeExt as _,
};

use crate::case::cases;
use crate::expect::{chain, refused, took};
use crate::failure::fail;
use crate::{Context, Failure, Outcome};

cases! { "pull":
    missing [PullImage, Wait];
    missing_keeps_what_is_there [PullImage];
    always_brings_the_new_one [PullImage];
    never [PullImage];
    right_password [PullImage];
    wrong_password [PullImage];
    login_of_another_registry [PullImage];
    no_password [PullImage];
    password_is_in_no_error [PullImage];
    unknown_tag [PullImage];
    unknown_repository [PullImage];
    unreachable_registry [PullImage];
    bad_name [PullImage];
    progress_adds_up [PullImage, PullProgress] exclusive;
    cancelled [PullImage];
    two_at_once [PullImage];
    by_digest [PullImage];
    create_pulls_by_the_policy [PullImage];
    deferred_failure_is_told_by_wait [DeferredPull, Wait];
}

fn policy(policy: PullPolicy) -> PullOptions {
    PullOptions::default().policy(policy)
}

/// Returns all events of a pull; the last one is its outcome.
async fn events(mut stream: PullStream) -> Result<(Vec<PullEvent>, PullSummary), Failure> {
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        match event? {
            PullEvent::Done(summary) => {
                assert!(stream.next().await.is_none(), "a pull ends after its outcome");
                return Ok((events, summary));
            }
            event => events.push(event),
        }
    }
    fail!("the pull ended without an outcome")
}

async fn missing(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let pulled = t.runtime().pull_image(&image, PullOptions::default()).await?;
    let (_, first) = events(pulled).await?;
    assert_eq!(first.requested, image.reference);
    assert!(first.id.is_some());
    let resolved = first.resolved.clone().unwrap_or_default();
    assert!(resolved.contains("@sha256:"), "{resolved}");
    let (_, exit) = t.run(&ContainerSpec::new(image.clone()).command(["true"])).await?;
    assert!(exit.success());
    // The image is present now.
    let again = t.runtime().pull_image(&image, policy(PullPolicy::Missing)).await?;
    let (seen, second) = events(again).await?;
    assert_eq!(seen, [PullEvent::AlreadyPresent]);
    assert_eq!(second.id, first.id);
    Ok(())
}

/// Pushes two images under the same name.
async fn renewed(t: &Context) -> Result<(Image, PullSummary), Failure> {
    let name = format!("conformance/{}:renewed", t.scope());
    let image = t.image(t.push(&name).await?);
    let old = t.runtime().pull(&image, PullOptions::default()).await?;
    t.push(&name).await?;
    Ok((image, old))
}

async fn missing_keeps_what_is_there(t: Context) -> Outcome {
    let (image, old) = renewed(&t).await?;
    let kept = t.runtime().pull(&image, policy(PullPolicy::Missing)).await?;
    assert_eq!(kept.id, old.id);
    Ok(())
}

async fn always_brings_the_new_one(t: Context) -> Outcome {
    let (image, old) = renewed(&t).await?;
    let new = t.runtime().pull(&image, policy(PullPolicy::Always)).await?;
    assert!(new.id.is_some() && new.id != old.id);
    let same = t.runtime().pull(&image, policy(PullPolicy::Always)).await?;
    assert_eq!(same.id, new.id);
    let kept = t.runtime().pull(&image, policy(PullPolicy::Never)).await?;
    assert_eq!(kept.id, new.id);
    Ok(())
}

async fn never(t: Context) -> Outcome {
    let present = t.image(t.subject().images().busybox);
    let there = t.runtime().pull_image(&present, policy(PullPolicy::Never)).await?;
    assert_eq!(events(there).await?.0, [PullEvent::AlreadyPresent]);
    let absent = t.fresh_image().await?;
    let error = refused(
        t.runtime().pull(&absent, policy(PullPolicy::Never)).await,
        ErrorKind::ImageNotFound,
    )?;
    assert_eq!(error.subject(), Some(absent.reference.as_str()));
    Ok(())
}

async fn right_password(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let registry = t.subject().registry();
    let auth = t.auth().server_address(registry.address);
    let image = Image::new(image.reference).auth(auth);
    t.runtime().pull(&image, PullOptions::default()).await?;
    Ok(())
}

async fn refused_pull(
    t: &Context,
    image: &Image,
    kind: ErrorKind,
) -> Result<runtime_core::Error, Failure> {
    let begun = Instant::now();
    let error = refused(t.runtime().pull(image, policy(PullPolicy::Always)).await, kind)?;
    took(begun, Duration::ZERO, Duration::from_secs(30))?;
    Ok(error)
}

async fn wrong_password(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let user = t.subject().registry().username;
    for auth in [RegistryAuth::new(user, "wrong"), RegistryAuth::new("nobody", "wrong")] {
        let image = Image::new(&image.reference).auth(auth);
        refused_pull(&t, &image, ErrorKind::Unauthenticated).await?;
    }
    // Followed by the correct login.
    t.runtime().pull(&image, PullOptions::default()).await?;
    Ok(())
}

async fn login_of_another_registry(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let auth = RegistryAuth::new("ada", "secret").server_address("other.example");
    let image = Image::new(image.reference).auth(auth);
    let error = refused_pull(&t, &image, ErrorKind::InvalidArgument).await?;
    assert_eq!(error.field(), Some("image.auth.server_address"), "{error:?}");
    Ok(())
}

async fn no_password(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    refused_pull(&t, &Image::new(image.reference), ErrorKind::Unauthenticated).await?;
    Ok(())
}

async fn password_is_in_no_error(t: Context) -> Outcome {
    const SECRET: &str = "correct-horse-battery-staple";
    let image = t.fresh_image().await?;
    let auth = RegistryAuth::new("tester", SECRET);
    let image = Image::new(image.reference).auth(auth);
    let error = refused_pull(&t, &image, ErrorKind::Unauthenticated).await?;
    let created = t
        .runtime()
        .create_container(&ContainerSpec::new(image).pull_policy(PullPolicy::Always))
        .await;
    let other = refused(created, ErrorKind::Unauthenticated)?;
    for error in [error, other] {
        for text in [error.to_string(), format!("{error:?}"), format!("{error:#?}"), chain(&error)]
        {
            assert!(!text.contains(SECRET), "the password is in an error");
        }
    }
    Ok(())
}

async fn unknown_tag(t: Context) -> Outcome {
    let registry = t.subject().registry().address;
    let image = t.image(format!("{registry}/test/busybox:no-such-tag"));
    let error = refused_pull(&t, &image, ErrorKind::ImageNotFound).await?;
    assert_eq!(error.subject(), Some(image.reference.as_str()));
    assert!(!error.is_retryable());
    Ok(())
}

async fn unknown_repository(t: Context) -> Outcome {
    let registry = t.subject().registry().address;
    let image = t.image(format!("{registry}/no/such/repository:1"));
    refused_pull(&t, &image, ErrorKind::ImageNotFound).await?;
    Ok(())
}

/// No server listens on port 1.
async fn unreachable_registry(t: Context) -> Outcome {
    let image = Image::new("127.0.0.1:1/test/busybox:1").auth(RegistryAuth::new("a", "b"));
    let error = refused_pull(&t, &image, ErrorKind::Unavailable).await?;
    assert!(error.is_retryable());
    Ok(())
}

async fn bad_name(t: Context) -> Outcome {
    for bad in ["", "r.io/UPPER", "a b", "a@sha256:1", "https://r.io/a"] {
        let pulled = t.runtime().pull(&Image::new(bad), PullOptions::default()).await;
        let error = refused(pulled, ErrorKind::InvalidArgument)?;
        assert_eq!(error.field(), Some("image"), "{bad:?}");
    }
    Ok(())
}

/// Exclusive, because it removes an image so that its layers are pulled again.
async fn progress_adds_up(t: Context) -> Outcome {
    let reference = t.subject().images().layers;
    let (image, least) = match t.subject().forget_image(&reference).await {
        Ok(true) => (t.image(reference), 4),
        Ok(false) => (t.fresh_image().await?, 1),
        Err(error) => fail!("{error}"),
    };
    let pulled = t.runtime().pull_image(&image, policy(PullPolicy::Always)).await?;
    let (events, _) = events(pulled).await?;
    let mut layers: BTreeMap<String, (u64, Option<u64>, bool)> = BTreeMap::new();
    for event in &events {
        match event {
            PullEvent::Layer { id, current, total } => {
                let layer = layers.entry(id.clone()).or_default();
                assert!(*current >= layer.0, "the progress of {id} falls: {events:?}");
                assert!(total.is_none_or(|total| *current <= total), "{event:?}");
                *layer = (*current, total.or(layer.1), false);
            }
            PullEvent::LayerDone { id } => layers.entry(id.clone()).or_default().2 = true,
            _ => {}
        }
    }
    let with_bytes: Vec<_> = layers.values().filter(|layer| layer.1.is_some()).collect();
    assert!(with_bytes.len() >= least, "{} layers have progress: {events:?}", with_bytes.len());
    for (id, (current, total, done)) in &layers {
        assert!(total.is_none_or(|total| total == *current), "{id} ends at {current} of {total:?}");
        assert!(done, "{id} has no end");
    }
    let bytes: u64 = with_bytes.iter().map(|layer| layer.0).sum();
    assert!(least == 1 || bytes >= 16 << 20, "{bytes} bytes of four layers of 4 MiB");
    Ok(())
}

async fn cancelled(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let mut stream = t.runtime().pull_image(&image, policy(PullPolicy::Always)).await?;
    stream.next().await.transpose()?;
    drop(stream);
    let unpolled = t.runtime().pull_image(&image, policy(PullPolicy::Always)).await?;
    drop(unpolled);
    let (_, summary) =
        events(t.runtime().pull_image(&image, policy(PullPolicy::Always)).await?).await?;
    assert!(summary.id.is_some());
    Ok(())
}

async fn two_at_once(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let other = t.connect().await?;
    let (one, two) = tokio::join!(
        t.runtime().pull(&image, PullOptions::default()),
        other.pull(&image, policy(PullPolicy::Always))
    );
    let (one, two) = (one?, two?);
    assert!(one.id.is_some());
    assert_eq!(one.id, two.id);
    Ok(())
}

async fn by_digest(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let tagged = t.runtime().pull(&image, PullOptions::default()).await?;
    let Some(resolved) = tagged.resolved else { fail!("the pull does not say the digest") };
    let pulled = t.runtime().pull(&t.image(&resolved), policy(PullPolicy::Always)).await?;
    assert_eq!(pulled.id, tagged.id);
    let container = t.create(&ContainerSpec::new(t.image(&resolved)).command(["true"])).await?;
    let seen = container.info().await?.image;
    assert_eq!(seen.id, tagged.id);
    assert_eq!(seen.requested.as_deref(), Some(resolved.as_str()));
    Ok(())
}

async fn image_id(runtime: &dyn Runtime, spec: &ContainerSpec) -> Result<Option<String>, Failure> {
    Ok(runtime.create_container(spec).await?.info().await?.image.id)
}

async fn create_pulls_by_the_policy(t: Context) -> Outcome {
    let (image, old) = renewed(&t).await?;
    let spec = ContainerSpec::new(image);
    let runtime = &**t.runtime();
    assert_eq!(image_id(runtime, &spec).await?, old.id, "missing is the default");
    let spec = spec.pull_policy(PullPolicy::Always);
    let new = image_id(runtime, &spec).await?;
    assert!(new.is_some() && new != old.id);
    let spec = spec.pull_policy(PullPolicy::Never);
    assert_eq!(image_id(runtime, &spec).await?, new);
    Ok(())
}

async fn deferred_failure_is_told_by_wait(t: Context) -> Outcome {
    let registry = t.subject().registry().address;
    let image = t.image(format!("{registry}/test/busybox:no-such-tag"));
    let container = t.create(&ContainerSpec::new(image)).await?;
    let error = refused(container.start().await, ErrorKind::ImageNotFound)?;
    assert!(!error.is_retryable(), "{error:?}");
    let exit = container.wait().await?;
    assert_eq!((exit.code, exit.reason), (None, ExitReason::ImagePullFailed));
    let words = exit.message.clone().unwrap_or_default();
    assert!(words.contains("no-such-tag"), "{words}");
    assert_eq!(container.info().await?.exit, Some(exit));
    Ok(())
}
