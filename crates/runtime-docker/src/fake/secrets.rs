//! Secrets in the logs of this crate and of its dependencies.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use runtime_core::{
    Container, ContainerSpec, ExecOptions, Image, PullOptions, RegistryAuth, Runtime,
};
use tracing::field::{Field, Visit};
use tracing::span;

use super::{Fake, ID, Reply, created};

/// The text of every event and span, of `tracing` and of `log`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Log {
    fn push(&self, text: &str) {
        let mut all = self.0.lock().unwrap();
        all.push_str(text);
        all.push('\n');
    }
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _metadata: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut fields = Fields(String::new());
        span.record(&mut fields);
        self.push(&fields.0);
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, values: &span::Record<'_>) {
        let mut fields = Fields(String::new());
        values.record(&mut fields);
        self.push(&fields.0);
    }

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(event.metadata().target().to_owned());
        event.record(&mut fields);
        self.push(&fields.0);
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

impl log::Log for Log {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.push(&format!("{} {}", record.target(), record.args()));
    }

    fn flush(&self) {}
}

#[tokio::test]
async fn secrets_of_requests_are_in_no_trace_log() {
    let log = Log::default();
    log::set_logger(Box::leak(Box::new(log.clone()))).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    // Set globally, because another test may have cached a disabled call site.
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let fake = Fake::new(|request, _| match request {
        "POST /v1.41/containers/create" => Reply::Json(201, created()),
        request if request.ends_with("/exec") => Reply::Json(201, format!(r#"{{"Id":"{ID}"}}"#)),
        request if request.ends_with("/json") => {
            Reply::Json(200, r#"{"Config":{"Env":["A=hunter2"]}}"#.to_owned())
        }
        _ => Reply::Json(500, r#"{"message":"no"}"#.to_owned()),
    });
    let runtime = fake.connect().await.unwrap();
    let auth = || RegistryAuth::new("user", "hunter2");
    let image = Image::new("registry.example.test/busybox").auth(auth());
    let spec = ContainerSpec::new(image.clone())
        .env("DB_PASSWORD", "hunter2")
        .pull_policy(runtime_core::PullPolicy::Missing);
    let container = runtime.create_container(&spec).await.unwrap();
    // The fake engine refuses most of these. Only the requests matter.
    let _ = container.info().await;
    let _ = container.exec(ExecOptions::new(["sh"]).env("DB_PASSWORD", "hunter2")).await;
    if let Ok(mut pull) = runtime.pull_image(&image, PullOptions::default()).await {
        while pull.next().await.is_some() {}
    }
    let file = futures_util::stream::once(async { Ok(bytes::Bytes::from_static(b"hunter2")) });
    let _ = container.copy_in("/", file.boxed(), Default::default()).await;
    let requests = fake.seen.lock().unwrap().len();
    assert!(requests >= 6, "{:?}", fake.seen.lock().unwrap());
    let text = log.0.lock().unwrap().clone();
    assert!(text.contains("connected"), "{text}");
    let encoded = ["hunter2", "aHVudGVyMg", "h1bnRlcj", "odW50ZXIy"];
    for line in text.lines() {
        assert!(!encoded.iter().any(|secret| line.contains(secret)), "{line}");
    }
}
