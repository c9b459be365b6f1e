//! Polling with a timeout.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Polls until the probe returns a value; an error of the probe ends the wait.
pub(crate) fn until<T>(
    limit: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        anyhow::ensure!(
            start.elapsed() < limit,
            "timed out after {} s waiting for {what}",
            limit.as_secs()
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
