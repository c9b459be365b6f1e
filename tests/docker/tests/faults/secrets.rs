//! A password never appears in formatted values, serialized values or traces.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use runtime_core::{
    ContainerSpec, Image, PullOptions, PullPolicy, RegistryAuth, Runtime, RuntimeExt as _,
};
use test_support::Connection as _;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::support::{Engine, Outcome};

static TRACED: Mutex<String> = Mutex::new(String::new());

/// Subscriber that records every field of every span and event of every crate, at every level.
struct Everything;

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?} {value:#?}");
    }
}

fn traced() -> std::sync::MutexGuard<'static, String> {
    TRACED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscriber for Everything {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut text = traced();
        let _ = write!(text, "\nspan {}", attributes.metadata().name());
        attributes.record(&mut Fields(&mut text));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut text = traced();
        let _ = write!(text, "\nrecord");
        values.record(&mut Fields(&mut text));
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = traced();
        let _ = write!(text, "\nevent {}", event.metadata().target());
        event.record(&mut Fields(&mut text));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

const SECRET: &str = "correct-horse-battery-staple";

/// Returns `true` if the text contains the secret, in plain text or in base64.
fn shows_the_secret(text: &str) -> bool {
    let decodes = |word: &str| {
        let plain = word.trim_end_matches('=').replace('-', "+").replace('_', "/");
        let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
        engine.decode(plain).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(SECRET))
    };
    text.contains(SECRET)
        || text
            .split(|c: char| !c.is_ascii_alphanumeric() && !"+/-_=".contains(c))
            .any(|word| word.len() > 20 && decodes(word))
}

#[tokio::test]
async fn a_password_is_nowhere() -> Outcome {
    let _ = tracing::subscriber::set_global_default(Everything);
    let engine = Engine::of_environment().await?;
    let auth = RegistryAuth::new("tester", SECRET);
    let reference = engine.idle().image.reference;
    let spec = ContainerSpec::new(Image::new(reference).auth(auth)).pull_policy(PullPolicy::Always);
    let always = PullOptions::default().policy(PullPolicy::Always);
    let Err(pulled) = engine.runtime.pull(&spec.image, always).await else {
        panic!("the password is wrong");
    };
    let Err(created) = engine.runtime.create_container(&spec).await else {
        panic!("the password is wrong");
    };
    for text in [
        format!("{spec:?}{spec:#?}"),
        format!("{:?}", engine.runtime),
        serde_json::to_string(&spec)?,
        format!("{pulled} {pulled:?} {pulled:#?}"),
        format!("{created} {created:?} {created:#?}"),
    ] {
        assert!(!shows_the_secret(&text), "{text}");
    }
    let whole = engine.runtime.create_container(&engine.idle()).await?;
    whole.info().await?;
    let again = engine.runtime.container(whole.id()).await?;
    let traced = traced().clone();
    let said =
        |words: &[&str]| traced.lines().any(|line| words.iter().all(|word| line.contains(word)));
    let id = again.id().as_str();
    for words in [
        &["span runtime", "backend=\"docker\"", "operation=\"pull image\""][..],
        &["span runtime", "backend=\"docker\"", "operation=\"create container\""],
        &["span runtime", "backend=\"docker\"", "operation=\"reattach\""],
        // The container of these two is recorded in the span that is already open.
        &["record", "container=", id],
        &["span container", "backend=\"docker\"", "operation=\"inspect container\"", id],
    ] {
        assert!(said(words), "{words:?} was not traced: {traced}");
    }
    if let Some(line) = traced.lines().find(|line| shows_the_secret(line)) {
        panic!("the password was traced: {line}");
    }
    engine.finish().await
}

#[test]
fn the_search_finds_it() {
    let encoded = base64::engine::general_purpose::URL_SAFE
        .encode(format!(r#"{{"username":"tester","password":"{SECRET}"}}"#));
    assert!(shows_the_secret(&format!("x-registry-auth: {encoded};")));
    assert!(shows_the_secret(&format!("a{SECRET}b")));
    assert!(!shows_the_secret("correct horse battery staple in other words, and long ones"));
}
