//! Creating: a complete container, or an error with the reason.

use std::collections::BTreeSet;

use runtime_core::{
    Capability, ContainerSpec, ContainerStatus, ErrorKind, ExitReason, Gpus, Image, LABEL_PREFIX,
    ListOptions, Mount, MountKind, NVIDIA_VISIBLE_DEVICES, PullPolicy, StartOutcome,
};

use crate::case::cases;
use crate::expect::{recent, refused, refused_as};
use crate::failure::fail;
use crate::{Context, Failure, Outcome};

cases! { "create":
    minimal [Wait, Logs];
    is_not_started [Mounts, Wait];
    name_taken [];
    name_taken_in_another_scope [];
    name_is_made_up [];
    names_of_all_forms [];
    labels_of_any_text [];
    labels_are_the_callers_only [];
    bad_image_name [];
    image_names_in_short_and_in_full [];
    missing_image_with_policy_never [];
    unknown_tag [];
    wrong_password [];
    each_wrong_field [];
    mount_source_missing [Mounts];
    mount_source_of_another_kind [Mounts];
    spec_is_not_changed [];
}

async fn minimal(t: Context) -> Outcome {
    let container = t.create(&ContainerSpec::new(t.spec().image)).await?;
    let info = container.info().await?;
    assert_eq!(&info.id, container.id());
    assert_eq!(info.name, container.name());
    assert_eq!(info.status, ContainerStatus::Created);
    recent("the creation time", info.created_at)?;
    assert_eq!((info.started_at, info.ended_at, &info.exit), (None, None, &None));
    assert_eq!((info.memory, info.cpu_count), (None, None));
    assert!(info.labels.is_empty(), "{:?}", info.labels);
    assert!(info.tcp_ports.is_empty(), "{:?}", info.tcp_ports);
    let requested = info.image.requested.unwrap_or_default();
    assert_eq!(requested, t.subject().images().busybox);

    assert_eq!(container.start().await?, StartOutcome::Started);
    // The shell of the image reads end of file from its standard input.
    let exit = container.wait().await?;
    assert_eq!((exit.code, exit.reason, exit.signal), (Some(0), ExitReason::Exited, None));
    assert_eq!(t.text(&*container).await?, "");
    Ok(())
}

async fn is_not_started(t: Context) -> Outcome {
    let folder = t.folder()?;
    let spec = t.script("echo ran > /data/ran").mount(Mount::new(&folder, "/data"));
    let container = t.create(&spec).await?;
    let neighbour = t.create(&t.script("exit 0")).await?;
    neighbour.start().await?;
    neighbour.wait().await?;
    // Another container has run to its end, and this one has not been started.
    assert_eq!(container.info().await?.status, ContainerStatus::Created);
    assert!(!folder.join("ran").exists(), "a created container has run");
    container.start().await?;
    container.wait().await?;
    assert!(folder.join("ran").exists(), "a started container has not run");
    Ok(())
}

async fn name_taken(t: Context) -> Outcome {
    let name = t.name("taken");
    let first = t.create(&t.idle().name(&name)).await?;
    assert_eq!(first.name(), name);
    let error = refused(
        t.runtime().create_container(&t.idle().name(&name)).await,
        ErrorKind::AlreadyExists,
    )?;
    assert_eq!(error.subject(), Some(name.as_str()));
    assert!(!error.is_retryable());
    t.until_left(1).await?;
    assert_eq!(first.info().await?.name, name, "the first one is as it was");
    first.remove().await?;
    let second = t.create(&t.idle().name(&name)).await?;
    assert_ne!(second.id(), first.id());
    Ok(())
}

async fn name_taken_in_another_scope(t: Context) -> Outcome {
    let name = t.name("taken");
    t.create(&t.idle().name(&name)).await?;
    let other = t.connect_other_scope().await?;
    let created = other.create_container(&t.idle().name(&name)).await;
    refused(created, ErrorKind::AlreadyExists)?;
    assert!(other.list_containers(ListOptions::default()).await?.is_empty());
    Ok(())
}

async fn name_is_made_up(t: Context) -> Outcome {
    let (one, two) = (t.create(&t.idle()).await?, t.create(&t.idle()).await?);
    assert_ne!(one.name(), two.name());
    for container in [one, two] {
        assert!(!container.name().is_empty());
        assert_eq!(container.info().await?.name, container.name());
    }
    Ok(())
}

async fn names_of_all_forms(t: Context) -> Outcome {
    let scope = t.scope();
    let long = format!("{}{scope}", "x".repeat(128 - scope.as_str().len()));
    for name in [format!("A.b_c-9.{scope}"), format!("0{scope}"), format!("a-.{scope}."), long] {
        let container = t.create(&t.idle().name(&name)).await?;
        assert_eq!(container.info().await?.name, name);
    }
    Ok(())
}

async fn labels_of_any_text(t: Context) -> Outcome {
    let labels = [
        ("simple", "value"),
        ("empty", ""),
        ("two/slashes/in-it", "a/b/c"),
        ("UPPER and blanks", " \t\n"),
        ("umlauts-ä", "日本語 🦀"),
        ("equals=and,comma", "a=b,c=\"d\""),
        ("long", &"x".repeat(4000)),
    ];
    let mut spec = t.idle();
    for (key, value) in labels {
        spec = spec.label(key, value);
    }
    let container = t.create(&spec).await?;
    assert_eq!(container.info().await?.labels, spec.labels);
    let listed = t.runtime().list_containers(ListOptions::default()).await?;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].info.labels, spec.labels);
    Ok(())
}

/// The image has a label of its own.
async fn labels_are_the_callers_only(t: Context) -> Outcome {
    let image = t.image(t.subject().images().entry);
    let spec = ContainerSpec::new(image).label("mine", "yes");
    let container = t.create(&spec).await?;
    assert_eq!(container.info().await?.labels, spec.labels);
    let listed = t.runtime().list_containers(ListOptions::default()).await?;
    assert_eq!(listed[0].info.labels, spec.labels);
    Ok(())
}

async fn bad_image_name(t: Context) -> Outcome {
    for bad in ["", " ", "r.io/UPPER", "a b", "a:b:c:d", "a@sha256:12", "https://r.io/a", "a\0b"] {
        let created = t.runtime().create_container(&ContainerSpec::new(bad)).await;
        let error = refused(created, ErrorKind::InvalidArgument)?;
        assert_eq!(error.field(), Some("image"), "{bad:?}: {error}");
    }
    t.nothing_left().await
}

/// The engine's own id of an image is a valid name of the image as well.
///
/// An engine that pulls at the start reports the image by its digest from then on if this engine has ever
/// pulled the image, and by the id alone otherwise.
async fn image_names_in_short_and_in_full(t: Context) -> Outcome {
    if t.has(Capability::DeferredPull) {
        for policy in [PullPolicy::Missing, PullPolicy::Always] {
            let image = t.ready(&t.idle().pull_policy(policy)).await?.info().await?.image;
            let name = image.resolved.as_ref().or(image.id.as_ref());
            assert!(name.is_some_and(|name| name.contains("sha256:")), "{policy:?}: {image:?}");
        }
        return Ok(());
    }
    let image = t.create(&t.idle()).await?.info().await?.image;
    let Some(id) = image.id else { fail!("the engine does not say the id: {image:?}") };
    let resolved = image.resolved.unwrap_or_default();
    assert!(resolved.is_empty() || resolved.contains("sha256:"), "{resolved} has no digest");
    let spec = ContainerSpec::new(Image::new(&id)).pull_policy(PullPolicy::Never);
    let again = t.create(&spec).await?;
    assert_eq!(again.info().await?.image.id, Some(id));
    Ok(())
}

/// Runs a spec whose image cannot be pulled. The create fails with one of `kinds`; if pulls are deferred, the
/// start and the wait fail instead.
pub(super) async fn pull_fails(
    t: &Context,
    spec: &ContainerSpec,
    kinds: &[ErrorKind],
) -> Result<(), Failure> {
    if t.has(Capability::DeferredPull) {
        let container = t.create(spec).await?;
        refused_as(container.start().await, kinds)?;
        let exit = container.wait().await?;
        assert_eq!((exit.code, exit.reason), (None, ExitReason::ImagePullFailed));
        assert!(exit.message.is_some(), "the registry's words are missing");
    } else {
        refused_as(t.runtime().create_container(spec).await, kinds)?;
        t.nothing_left().await?;
    }
    Ok(())
}

async fn missing_image_with_policy_never(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let spec = ContainerSpec::new(image).pull_policy(PullPolicy::Never);
    pull_fails(&t, &spec, &[ErrorKind::ImageNotFound]).await
}

async fn unknown_tag(t: Context) -> Outcome {
    let registry = t.subject().registry().address;
    let spec = ContainerSpec::new(t.image(format!("{registry}/test/busybox:no-such-tag")));
    pull_fails(&t, &spec, &[ErrorKind::ImageNotFound]).await
}

async fn wrong_password(t: Context) -> Outcome {
    let image = t.fresh_image().await?;
    let user = t.subject().registry().username;
    let wrong = runtime_core::RegistryAuth::new(user, "not-the-password");
    let spec = ContainerSpec::new(Image::new(image.reference).auth(wrong));
    pull_fails(&t, &spec, &[ErrorKind::Unauthenticated]).await
}

/// Returns the whole field of a field that is named with its part: `mounts` of `mounts[0].source`.
fn whole(field: &str) -> &str {
    field.split(['[', '.']).next().unwrap_or_default()
}

/// Each field in turn is wrong, and is refused by name before anything is created.
async fn each_wrong_field(t: Context) -> Outcome {
    let id = "a".repeat(64);
    let least = t.capabilities().limits.minimum_memory.unwrap_or(1);
    let long = "x".repeat(129);
    let login = runtime_core::RegistryAuth::new("ada", "secret").server_address("other.example");
    let elsewhere = Image::new("registry.example/a").auth(login);
    let wrong = [
        ("image", ContainerSpec::new("not an image")),
        ("image.auth.server_address", ContainerSpec::new(elsewhere)),
        ("pull_policy", ContainerSpec::new(id).pull_policy(PullPolicy::Always)),
        ("name", t.spec().name("")),
        ("name", t.spec().name("-begins-badly")),
        ("name", t.spec().name("has blanks")),
        ("name", t.spec().name("nul\0")),
        ("name", t.spec().name(long)),
        ("command", t.spec().command(Vec::<String>::new())),
        ("command", t.spec().command([""])),
        ("command[1]", t.spec().command(["echo", "nul\0"])),
        ("arguments[0]", t.spec().arguments(["nul\0"])),
        ("env", t.spec().env("", "value")),
        ("env", t.spec().env("a=b", "value")),
        ("env", t.spec().env("nul\0", "value")),
        ("env", t.spec().env("NUL", "nul\0")),
        ("env", t.spec().env(NVIDIA_VISIBLE_DEVICES, "all")),
        ("labels", t.spec().label("", "value")),
        ("labels", t.spec().label("nul\0", "value")),
        ("labels", t.spec().label("nul", "\0")),
        ("labels", t.spec().label(format!("{LABEL_PREFIX}mine"), "value")),
        ("mounts[0].source", t.spec().mount(Mount::new("relative", "/x"))),
        ("mounts[0].source", t.spec().mount(Mount::new("/a/../b", "/x"))),
        ("mounts[0].source", t.spec().mount(Mount::new("/nul\0", "/x"))),
        ("mounts[0].target", t.spec().mount(Mount::new("/", "relative"))),
        ("mounts[0].target", t.spec().mount(Mount::new("/", "/"))),
        (
            "mounts[1].target",
            t.spec().mount(Mount::new("/", "/x")).mount(Mount::new("/tmp", "/x/")),
        ),
        ("memory", t.spec().memory(least - 1)),
        ("memory", t.spec().memory(u64::MAX)),
        ("shared_memory", t.spec().shared_memory(0)),
        ("shared_memory", t.spec().shared_memory(u64::MAX)),
        ("cpu_count", t.spec().cpu_count(0.0)),
        ("cpu_count", t.spec().cpu_count(-1.0)),
        ("cpu_count", t.spec().cpu_count(f64::NAN)),
        ("cpu_count", t.spec().cpu_count(f64::INFINITY)),
        ("cpu_shares", t.spec().cpu_shares(1)),
        ("cpu_shares", t.spec().cpu_shares(1 << 20)),
        ("gpus[0]", t.spec().gpus(Gpus::Ids(vec![String::new()]))),
        ("gpus[1]", t.spec().gpus(Gpus::Ids(vec!["0".into(), "0".into()]))),
        ("user", t.spec().user("")),
        ("user", t.spec().user("1:2:3")),
        ("user", t.spec().user("4294967296")),
        ("groups[0]", t.spec().group("")),
        ("groups[0]", t.spec().group("a:b")),
        ("working_dir", t.spec().working_dir("relative")),
        ("working_dir", t.spec().working_dir("/a/../b")),
        ("tcp_ports[0]", t.spec().tcp_port(0)),
        ("tcp_ports[1]", t.spec().tcp_port(80).tcp_port(80)),
        ("hostname", t.spec().hostname("")),
        ("hostname", t.spec().hostname("under_score")),
        ("hostname", t.spec().hostname("x".repeat(64))),
        ("labels[\"big\"]", t.spec().label("big", "x".repeat(1 << 20))),
        ("env[\"BIG\"]", t.spec().env("BIG", "x".repeat(128 << 10))),
        ("arguments[0]", t.spec().arguments(["x".repeat(128 << 10)])),
    ];
    let all = wrong.len();
    for (at, (field, spec)) in wrong.into_iter().enumerate() {
        let error = refused_as(
            t.runtime().create_container(&spec).await,
            &[ErrorKind::InvalidArgument, ErrorKind::Unsupported],
        )?;
        let named = error.field().unwrap_or_default();
        // An engine that lacks the whole field may name it without its part.
        let unsupported = error.kind() == ErrorKind::Unsupported && whole(named) == whole(field);
        if !(named.starts_with(field) || unsupported) {
            fail!("wrong spec {at} of {all}: should name {field} and names {named:?}: {error}");
        }
    }
    assert!(t.runtime().list_containers(ListOptions::default()).await?.is_empty());
    t.nothing_left().await
}

/// The directory is not created, and the container that failed to start can be removed.
async fn mount_source_missing(t: Context) -> Outcome {
    let missing = t.folder()?.join("not-there");
    mount_is_refused(&t, Mount::new(&missing, "/data")).await?;
    mount_is_refused(&t, Mount::new(&missing, "/data").kind(MountKind::File)).await?;
    assert!(!missing.exists(), "the engine made the folder");
    Ok(())
}

async fn mount_source_of_another_kind(t: Context) -> Outcome {
    let folder = t.folder()?;
    let file = folder.join("file");
    std::fs::write(&file, "content")?;
    mount_is_refused(&t, Mount::new(&folder, "/data").kind(MountKind::Socket)).await?;
    mount_is_refused(&t, Mount::new(&file, "/data").kind(MountKind::Directory)).await?;
    Ok(())
}

/// Asserts that the create refuses the mount, or the start if only a node has access to its files.
async fn mount_is_refused(t: &Context, mount: Mount) -> Outcome {
    let tried = match t.runtime().create_container(&t.script("exit 0").mount(mount)).await {
        Err(error) => Err(error),
        Ok(container) => match container.start().await {
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        },
    };
    refused(tried, ErrorKind::InvalidArgument).map(drop)
}

async fn spec_is_not_changed(t: Context) -> Outcome {
    let spec = t.script("exit 0").label("a", "b").env("A", "b").name(t.name("same"));
    let before = spec.clone();
    t.create(&spec).await?;
    assert_eq!(spec, before);
    let names: BTreeSet<String> = t
        .runtime()
        .list_containers(ListOptions::default())
        .await?
        .into_iter()
        .map(|listed| listed.info.name)
        .collect();
    assert_eq!(names, BTreeSet::from_iter(spec.name));
    Ok(())
}
