//! Waits for the exits of containers.

use std::sync::Arc;
use std::time::Duration;

use runtime_conformance::BoxError;
use runtime_core::{Container, Exit, Signal};
use tokio::task::JoinHandle;

use crate::Outcome;

/// Pending wait for the exit of a container.
#[derive(Debug)]
pub struct Waiter(JoinHandle<runtime_core::Result<Exit>>);

impl Waiter {
    /// Starts a wait in its own task.
    #[must_use]
    pub fn of(container: &Arc<dyn Container>) -> Self {
        let container = Arc::clone(container);
        Self(tokio::spawn(async move { container.wait().await }))
    }

    /// Starts `count` waits, distributed over the containers.
    #[must_use]
    pub fn many(containers: &[Arc<dyn Container>], count: usize) -> Vec<Self> {
        containers.iter().cycle().take(count).map(Self::of).collect()
    }

    /// Returns true if the wait has completed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_finished()
    }

    /// Returns the result of the wait, within a timeout in seconds.
    ///
    /// # Errors
    /// If the timeout elapses.
    pub async fn answer(self, seconds: u64) -> Result<runtime_core::Result<Exit>, BoxError> {
        Ok(tokio::time::timeout(Duration::from_secs(seconds), self.0).await??)
    }
}

/// Kills containers, and asserts that each of their waiters returns that exit.
///
/// # Errors
/// Errors of the kills and of the waits.
///
/// # Panics
/// If a waiter returns another exit.
pub async fn all_killed(containers: &[Arc<dyn Container>], waiters: Vec<Waiter>) -> Outcome {
    for container in containers {
        container.kill(Signal::KILL).await?;
    }
    for waiter in waiters {
        assert_eq!(waiter.answer(60).await??.code, Some(137));
    }
    Ok(())
}
