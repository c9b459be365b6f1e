//! Invalid input on a real engine: the right error kind, without delay, and no leftovers.

use std::time::Instant;

use runtime_core::{
    ContainerSpec, Error, ErrorKind, Image, Mount, PullPolicy, RegistryAuth, Runtime,
};

use test_support::Connection as _;

use super::support::{Engine, Outcome, fails};

/// Creates and starts a container that must be refused.
async fn refused(engine: &Engine, spec: &ContainerSpec, kind: ErrorKind) -> Error {
    let begun = Instant::now();
    let tried = match engine.runtime.create_container(spec).await {
        Ok(container) => {
            let started = container.start().await.map(drop);
            // A container that cannot start exists, and is removed here.
            container.remove().await.expect("it can be removed");
            started
        }
        Err(error) => Err(error),
    };
    let error = fails(tried, kind, begun);
    assert_eq!(engine.left().await.expect("the engine is there"), Vec::<String>::new());
    error
}

#[tokio::test]
async fn a_name_that_is_taken() -> Outcome {
    let engine = Engine::of_environment().await?;
    let name = format!("taken-{}", engine.runtime.scope());
    let first = engine.runtime.create_container(&engine.idle().name(&name)).await?;
    let begun = Instant::now();
    let second = engine.runtime.create_container(&engine.idle().name(&name)).await;
    let error = fails(second, ErrorKind::AlreadyExists, begun);
    assert_eq!(error.subject(), Some(name.as_str()));
    assert_eq!(engine.left().await?.len(), 1);
    first.remove().await?;
    engine.finish().await
}

#[tokio::test]
async fn an_image_that_is_not_there() -> Outcome {
    let engine = Engine::of_environment().await?;
    let registry = &engine.environment.registry.address;
    let mut image = engine.spec().image;
    image.reference = format!("{registry}/test/busybox:no-such-tag");
    for policy in [PullPolicy::Never, PullPolicy::Missing, PullPolicy::Always] {
        let spec = ContainerSpec::new(image.clone()).pull_policy(policy);
        let error = refused(&engine, &spec, ErrorKind::ImageNotFound).await;
        assert!(!error.is_retryable());
    }
    engine.finish().await
}

#[tokio::test]
async fn a_wrong_password() -> Outcome {
    let engine = Engine::of_environment().await?;
    let reference = engine.idle().image.reference;
    let wrong = RegistryAuth::new(&engine.environment.registry.username, "wrong");
    let spec =
        ContainerSpec::new(Image::new(reference).auth(wrong)).pull_policy(PullPolicy::Always);
    refused(&engine, &spec, ErrorKind::Unauthenticated).await;
    engine.finish().await
}

#[tokio::test]
async fn a_mount_source_that_is_not_there() -> Outcome {
    let engine = Engine::of_environment().await?;
    let missing = engine.environment.shared.join("no-such-folder");
    let spec = engine.idle().mount(Mount::new(&missing, "/data"));
    let error = refused(&engine, &spec, ErrorKind::InvalidArgument).await;
    let text = format!("{error:?}");
    assert!(text.contains("no-such-folder"), "it does not say which: {text}");
    assert!(!missing.exists());
    engine.finish().await
}

#[tokio::test]
async fn memory_under_the_minimum() -> Outcome {
    let engine = Engine::of_environment().await?;
    let least = engine.runtime.capabilities().limits.minimum_memory.unwrap_or(1);
    let before = engine.runtime.requests_sent();
    let error =
        refused(&engine, &engine.idle().memory(least - 1), ErrorKind::InvalidArgument).await;
    assert_eq!(error.field(), Some("memory"));
    assert!(error.to_string().contains(&least.to_string()), "it names the minimum: {error}");
    assert_eq!(engine.runtime.requests_sent(), before, "the engine was not asked");
    // The minimum is that of the engine, and not higher.
    let at_least = engine.idle().memory(least);
    engine.runtime.create_container(&at_least).await?;
    engine.finish().await
}

#[tokio::test]
async fn a_nul_byte() -> Outcome {
    let engine = Engine::of_environment().await?;
    let before = engine.runtime.requests_sent();
    for (spec, field) in [
        (engine.idle().arguments(["a\0b"]), "arguments[0]"),
        (engine.idle().command(["a\0b"]), "command[0]"),
        (engine.idle().label("key", "a\0b"), "labels[\"key\"]"),
        (engine.idle().env("A", "a\0b"), "env[\"A\"]"),
    ] {
        let error = refused(&engine, &spec, ErrorKind::InvalidArgument).await;
        assert_eq!(error.field(), Some(field));
    }
    assert_eq!(engine.runtime.requests_sent(), before, "the engine was not asked");
    engine.finish().await
}
