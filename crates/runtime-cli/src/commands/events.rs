//! `events`.

use std::sync::Arc;

use anyhow::Result;
use futures_util::StreamExt;
use runtime_core::{Event, EventKind, EventsOptions, Runtime};
use serde_json::json;

use crate::cli::Events;
use crate::exit_code::killed_by;
use crate::format::{Format, print};
use crate::resolve::Filters;
use crate::signals::Signals;
use crate::units;

/// `runtime events`.
pub(crate) async fn events(runtime: Arc<dyn Runtime>, arguments: Events) -> Result<u8> {
    let format = Format::without_table(arguments.format.as_deref())?;
    let mut options = EventsOptions::default();
    options.since = arguments.since.as_deref().map(units::time).transpose()?;
    options.labels = Filters::parse(&arguments.filter, &[])?.labels;
    let mut signals = Signals::listen()?;
    let mut events = runtime.events(options).await?;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            signal = signals.end() => return Ok(killed_by(signal.number())),
        };
        let Some(event) = event.transpose()? else { return Ok(0) };
        match &format {
            None => print(&format!("{}\n", describe(&event)))?,
            Some(format) => {
                let mut value = serde_json::to_value(&event)?;
                value["time"] = json!(units::rfc3339(event.time));
                print(&format.render(&[], [(value, Vec::new())])?)?;
            }
        }
    }
}

fn describe(event: &Event) -> String {
    let what = match &event.kind {
        EventKind::Created => "created".to_owned(),
        EventKind::Started => "started".to_owned(),
        EventKind::Oom => "out of memory".to_owned(),
        EventKind::Exited(exit) => format!("ended: {exit}"),
        EventKind::Removed => "removed".to_owned(),
        other => format!("{other:?}"),
    };
    format!("{} {} {} {what}", units::rfc3339(event.time), event.container, event.name)
}
