//! Waits for the ends of containers.

use std::sync::Arc;
use std::time::Duration;

use runtime_conformance::BoxError;
use runtime_core::{Container, Exit, Signal};
use tokio::task::JoinHandle;

use crate::Outcome;

/// A wait for the end of a container, on its way.
#[derive(Debug)]
pub struct Waiter(JoinHandle<runtime_core::Result<Exit>>);

impl Waiter {
    /// Waits in a task of its own.
    #[must_use]
    pub fn of(container: &Arc<dyn Container>) -> Self {
        let container = Arc::clone(container);
        Self(tokio::spawn(async move { container.wait().await }))
    }

    /// So many, which share out the containers among themselves.
    #[must_use]
    pub fn many(containers: &[Arc<dyn Container>], count: usize) -> Vec<Self> {
        containers.iter().cycle().take(count).map(Self::of).collect()
    }

    /// Whether it has its answer, or an error.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_finished()
    }

    /// What it comes to, within so many seconds.
    ///
    /// # Errors
    /// When it goes on for longer.
    pub async fn answer(self, seconds: u64) -> Result<runtime_core::Result<Exit>, BoxError> {
        Ok(tokio::time::timeout(Duration::from_secs(seconds), self.0).await??)
    }
}

/// Kills containers, and asserts that each of their waiters is told so.
///
/// # Errors
/// Those of the kills and of the waits.
///
/// # Panics
/// When one is told of another end.
pub async fn all_killed(containers: &[Arc<dyn Container>], waiters: Vec<Waiter>) -> Outcome {
    for container in containers {
        container.kill(Signal::KILL).await?;
    }
    for waiter in waiters {
        assert_eq!(waiter.answer(60).await??.code, Some(137));
    }
    Ok(())
}
