//! Recording of the log output of a case at every level, by the library and its dependencies.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};

use base64::Engine as _;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use crate::Failure;
use crate::failure::fail;
use crate::poll::lock;

static IS_ON: AtomicBool = AtomicBool::new(false);
static RECORDED: Mutex<String> = Mutex::new(String::new());

/// Active recording. Dropping it stops the recording.
pub(crate) struct Recording(());

/// Starts to record. The case has to run alone.
pub(crate) fn record() -> Result<Recording, Failure> {
    static IS_INSTALLED: LazyLock<bool> = LazyLock::new(|| {
        tracing::subscriber::set_global_default(Everything).is_ok()
            && log::set_logger(&Everything).is_ok()
    });
    if !*IS_INSTALLED {
        fail!("something else takes what is logged");
    }
    lock(&RECORDED).clear();
    log::set_max_level(log::LevelFilter::Trace);
    IS_ON.store(true, Ordering::SeqCst);
    Ok(Recording(()))
}

impl Recording {
    /// Stops the recording and returns the lines.
    pub(crate) fn finish(self) -> String {
        drop(self);
        std::mem::take(&mut *lock(&RECORDED))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        IS_ON.store(false, Ordering::SeqCst);
        log::set_max_level(log::LevelFilter::Off);
    }
}

fn push(what: &str, fields: impl FnOnce(&mut Fields)) {
    if IS_ON.load(Ordering::SeqCst) {
        let mut line = Fields(format!("{what}:"));
        fields(&mut line);
        let mut recorded = lock(&RECORDED);
        recorded.push_str(&line.0.replace('\n', " "));
        recorded.push('\n');
    }
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

struct Everything;

impl Subscriber for Everything {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        IS_ON.load(Ordering::Relaxed)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        push(span.metadata().name(), |fields| span.record(fields));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        push("record", |fields| values.record(fields));
    }

    fn event(&self, event: &Event<'_>) {
        push(event.metadata().target(), |fields| event.record(fields));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl log::Log for Everything {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        IS_ON.load(Ordering::Relaxed)
    }

    fn log(&self, record: &log::Record<'_>) {
        push(record.target(), |fields| {
            let _ = write!(fields.0, " {}", record.args());
        });
    }

    fn flush(&self) {}
}

/// Maximum number of nested encodings.
const DEPTH: u32 = 3;

/// Returns `true` if the text contains the secret: as plain text, as the numbers of its bytes, or in base64.
pub(crate) fn shows(text: &str, secret: &str) -> bool {
    let numbers: Vec<_> = secret.bytes().map(|byte| byte.to_string()).collect();
    shows_one_of(text, &[secret, &numbers.join(", ")], DEPTH)
}

fn shows_one_of(text: &str, secrets: &[&str; 2], depth: u32) -> bool {
    if secrets.iter().any(|secret| text.contains(secret)) {
        return true;
    }
    let decoded = |word: &str| {
        let word = word.trim_end_matches('=').replace('-', "+").replace('_', "/");
        // End of a base64 run that was cut off.
        let word = &word[..word.len() - usize::from(word.len() % 4 == 1)];
        let engine = base64::engine::GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            base64::engine::GeneralPurposeConfig::new()
                .with_decode_allow_trailing_bits(true)
                .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
        );
        engine.decode(word).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    depth > 0
        && text
            .split(|c: char| !c.is_ascii_alphanumeric() && !"+/-_=".contains(c))
            .filter(|word| word.len() > 11)
            .filter_map(decoded)
            .any(|text| shows_one_of(&text, secrets, depth - 1))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    #[test]
    fn secret_is_found_however_it_is_written() {
        const SECRET: &str = "correct-horse-battery";
        let once = STANDARD.encode(format!("tester:{SECRET}"));
        let twice = URL_SAFE.encode(format!(r#"{{"auths":{{"r":{{"auth":"{once}"}}}}}}"#));
        let bytes = format!("{:?}", format!("A={SECRET}").as_bytes());
        for text in [SECRET, &once, &twice, &twice[..twice.len() - 3], &bytes] {
            assert!(shows(&format!("authorization: Basic {text}, more"), SECRET), "{text}");
        }
        assert!(!shows("correct horse battery in other words, and aHVudGVyMmh1bnRlcjI=", SECRET));
    }
}
