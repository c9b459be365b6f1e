//! An engine that a test has for itself, so that it may be killed.

use std::any::Any;
use std::sync::{Mutex, PoisonError};

use runtime_conformance::{BoxError, EngineControl};
use runtime_core::async_trait;
use test_engines::{Engine, Process, Running, Site};

use crate::Control;

/// One test of a program at a time has one.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The engine. It goes at the end if it came for this test.
#[derive(Debug)]
pub struct Own {
    site: Site,
    engine: Engine,
    /// What it is now: another process after each start.
    running: Mutex<Running>,
    ours: bool,
    /// What was made for it, which goes after it and before the next one has its turn.
    _made: Option<Box<dyn Any + Send + Sync>>,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

impl Own {
    /// Waits for its turn, and brings the engine up.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn up(engine: Engine) -> Result<Self, BoxError> {
        let turn = TURN.lock().await;
        let site = Site::of_checkout()?;
        let ours = site.status(engine).is_none();
        let running = Mutex::new(site.up(engine)?);
        Ok(Self { site, engine, running, ours, _made: None, _turn: turn })
    }

    /// The same for an engine that begins anew, after `make` and with what that gives.
    ///
    /// # Errors
    /// When it does not come up, or those of `make`.
    pub async fn up_with<T: Any + Send + Sync>(
        engine: Engine,
        make: impl FnOnce() -> Result<T, BoxError>,
    ) -> Result<Self, BoxError> {
        let turn = TURN.lock().await;
        let site = Site::of_checkout()?;
        site.down(engine)?;
        let made = make()?;
        let running = Mutex::new(site.up(engine)?);
        let made: Option<Box<dyn Any + Send + Sync>> = Some(Box::new(made));
        Ok(Self { site, engine, running, ours: true, _made: made, _turn: turn })
    }

    fn running(&self) -> Running {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it listens, in the form of `DOCKER_HOST` or of a CRI endpoint.
    ///
    /// # Errors
    /// When it is of a kind that has no socket.
    pub fn host(&self) -> Result<String, BoxError> {
        Ok(self.running().host().ok_or("an engine without a socket")?)
    }

    /// The daemon's process.
    #[must_use]
    pub fn process(&self) -> Process {
        self.running().process().clone()
    }

    fn control(&self) -> Control {
        Control::new(self.site.clone(), self.engine)
    }
}

#[async_trait]
impl EngineControl for Own {
    async fn kill(&self) -> Result<(), BoxError> {
        self.control().kill().await
    }

    async fn start(&self) -> Result<(), BoxError> {
        let running = self.control().restart().await?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // A frozen daemon does not go.
        let _ = self.process().thaw();
        if self.ours {
            let _ = self.site.down(self.engine);
        }
    }
}
