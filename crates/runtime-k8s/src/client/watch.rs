//! A watch of the API server: a line for each change.

use std::time::Duration;

use runtime_core::Result;
use tokio::time::Instant;

use crate::client::lines::Lines;
use crate::client::transport::connections::OpenBody;
use crate::client::transport::liveness::Liveness;
use crate::json::readable;
use crate::model::api::{WatchLine, read_line};

/// The time after which a server ends a watch whose connection is pinged, in seconds. kubectl and
/// client-go use the same.
pub(crate) const PINGED_SECONDS: &str = "290";

/// The same for a watch whose connection cannot be pinged.
pub(crate) const PLAIN_SECONDS: &str = "15";

/// Maximum silence of a watch whose connection is pinged. Servers send a bookmark about once a
/// minute. With a server that sends none, the watch is reopened without a loss.
const PINGED_SILENCE_MAX: Duration = Duration::from_secs(90);

/// Maximum silence of a watch whose connection cannot be pinged. It usually ends before.
const PLAIN_SILENCE_MAX: Duration = Duration::from_secs(20);

/// An open watch.
#[derive(Debug)]
pub(crate) struct Watch {
    lines: Lines,
    /// Liveness of the connection, if it is pinged.
    liveness: Option<Liveness>,
    /// The time at which the watch was opened, or the last line arrived.
    last: Instant,
}

impl Watch {
    /// Returns a watch over a connection that is pinged.
    pub(crate) fn pinged(body: OpenBody, liveness: Liveness) -> Self {
        Self { lines: Lines::new(body), liveness: Some(liveness), last: Instant::now() }
    }

    /// Returns a watch over a connection that is not pinged.
    pub(crate) fn plain(body: OpenBody) -> Self {
        Self { lines: Lines::new(body), liveness: None, last: Instant::now() }
    }

    /// Returns the liveness of the connection, if it is pinged.
    pub(crate) fn liveness(&self) -> Option<Liveness> {
        self.liveness.clone()
    }

    /// Returns the next line; `None` if the server has ended the watch, the connection was lost, or
    /// the watch was silent for too long. It is cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<WatchLine>> {
        let silence = if self.liveness.is_some() { PINGED_SILENCE_MAX } else { PLAIN_SILENCE_MAX };
        let line = tokio::time::timeout_at(self.last + silence, self.lines.next()).await;
        let Ok(line) = line else {
            tracing::debug!("the watch was silent for too long");
            return Ok(None);
        };
        self.last = Instant::now();
        match line {
            Ok(Some(line)) => readable(read_line(&line)).map(Some),
            Ok(None) => Ok(None),
            Err(error) => {
                tracing::debug!(%error, "the watch has failed");
                Ok(None)
            }
        }
    }
}
