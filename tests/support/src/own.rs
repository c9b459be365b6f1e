//! Engines that one test uses exclusively, and can kill.

use std::any::Any;
use std::sync::{Mutex, PoisonError};

use runtime_conformance::{BoxError, EngineControl};
use runtime_core::async_trait;
use test_engines::{Engine, Process, Running, Site};

use crate::Control;

/// Lock that gives one test of a program at a time an engine.
static LOCK: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// An exclusive engine. It is stopped at the end if it was started for this test.
#[derive(Debug)]
pub struct Own {
    site: Site,
    engine: Engine,
    /// The current process, which changes with each start.
    running: Mutex<Running>,
    ours: bool,
    /// Resources created for the engine, dropped after it and before the lock is released.
    _made: Option<Box<dyn Any + Send + Sync>>,
    _lock: tokio::sync::MutexGuard<'static, ()>,
}

impl Own {
    /// Waits for the lock, and starts the engine.
    ///
    /// # Errors
    /// If the engine fails to start.
    pub async fn up(engine: Engine) -> Result<Self, BoxError> {
        let lock = LOCK.lock().await;
        let site = Site::of_checkout()?;
        let ours = site.status(engine).is_none();
        let running = Mutex::new(site.up(engine)?);
        Ok(Self { site, engine, running, ours, _made: None, _lock: lock })
    }

    /// Same as [`up`](Self::up), for an engine that is restarted after `make`, with its result.
    ///
    /// # Errors
    /// If the engine fails to start, or errors of `make`.
    pub async fn up_with<T: Any + Send + Sync>(
        engine: Engine,
        make: impl FnOnce() -> Result<T, BoxError>,
    ) -> Result<Self, BoxError> {
        let lock = LOCK.lock().await;
        let site = Site::of_checkout()?;
        site.down(engine)?;
        let made = make()?;
        let running = Mutex::new(site.up(engine)?);
        let made: Option<Box<dyn Any + Send + Sync>> = Some(Box::new(made));
        Ok(Self { site, engine, running, ours: true, _made: made, _lock: lock })
    }

    fn running(&self) -> Running {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the address in the form of `DOCKER_HOST` or of a CRI endpoint.
    ///
    /// # Errors
    /// If this kind of engine has no socket.
    pub fn host(&self) -> Result<String, BoxError> {
        Ok(self.running().host().ok_or("the engine has no socket")?)
    }

    /// Returns the daemon's process.
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
        // A frozen daemon does not stop.
        let _ = self.process().thaw();
        if self.ours {
            let _ = self.site.down(self.engine);
        }
    }
}
