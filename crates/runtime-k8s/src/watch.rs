//! A watch of the API server: a line for each change.

use std::time::Duration;

use runtime_core::Result;

use crate::client::read;
use crate::lines::Lines;
use crate::link::OpenBody;
use crate::wire::WatchLine;

/// The longest silence of a watch: servers send a bookmark about once a minute, and a server that
/// sends none loses nothing when the watch is opened again where it was.
const WATCH_SILENCE: Duration = Duration::from_secs(90);

/// An open watch.
#[derive(Debug)]
pub(crate) struct Watch {
    lines: Lines,
}

impl Watch {
    pub(crate) fn new(body: OpenBody) -> Self {
        Self { lines: Lines::new(body) }
    }

    /// The next line; `None` when the server ended the watch, or the connection was lost.
    pub(crate) async fn next(&mut self) -> Result<Option<WatchLine>> {
        let Ok(line) = tokio::time::timeout(WATCH_SILENCE, self.lines.next()).await else {
            return Ok(None);
        };
        match line {
            Ok(Some(line)) => read(&line).map(Some),
            Ok(None) => Ok(None),
            Err(error) => {
                tracing::debug!(%error, "the watch was cut");
                Ok(None)
            }
        }
    }
}
