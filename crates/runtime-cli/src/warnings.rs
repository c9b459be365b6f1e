//! Warnings of the libraries and reasons of pending starts, on stderr.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use runtime_core::PENDING_START;

use crate::style;

/// Installs a subscriber that prints the warnings of this project's libraries, and the reasons why
/// a start takes long. Other events are ignored.
pub(crate) fn show() {
    // The program installs no other subscriber.
    let _ = tracing::subscriber::set_global_default(StderrSubscriber);
}

/// Least severe level that is printed.
const LEVEL_MIN: LevelFilter = LevelFilter::INFO;

struct StderrSubscriber;

impl Subscriber for StderrSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == PENDING_START
            || (*metadata.level() <= LevelFilter::WARN && metadata.target().starts_with("runtime_"))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LEVEL_MIN)
    }

    fn event(&self, event: &Event<'_>) {
        let mut warning = Warning::default();
        event.record(&mut warning);
        if event.metadata().target() == PENDING_START {
            style::note(PendingStart(warning));
        } else {
            style::warn(warning);
        }
    }

    // Spans are not used: a warning has all fields.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Fields of an event, formatted as `message (fields): reason`.
#[derive(Debug, Default)]
struct Warning {
    what: String,
    about: String,
    container: String,
    why: String,
}

impl Visit for Warning {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" | "warning" => {
                let colon = if self.what.is_empty() { "" } else { ": " };
                write!(self.what, "{colon}{value:?}")
            }
            "error" | "reason" => write!(self.why, "{value:?}"),
            name => {
                if name == "container" {
                    let _ = write!(self.container, "{value:?}");
                }
                let comma = if self.about.is_empty() { "" } else { ", " };
                write!(self.about, "{comma}{name} {value:?}")
            }
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.about.is_empty() {
            write!(f, " ({})", self.about)?;
        }
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        Ok(())
    }
}

/// Reason of a pending start, with the container's name.
struct PendingStart(Warning);

impl fmt::Display for PendingStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is waiting to run: {}", self.0.container, self.0.why)
    }
}
