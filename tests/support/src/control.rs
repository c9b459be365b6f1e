//! Killing and restarting engines.

use runtime_conformance::{BoxError, EngineControl};
use runtime_core::async_trait;
use test_engines::{Engine, Running, Site};

/// Kills and restarts an engine that was started from this checkout.
#[derive(Debug, Clone)]
pub struct Control {
    site: Site,
    engine: Engine,
}

impl Control {
    /// Returns the control of a named engine, if the engine at `host` was started from this
    /// checkout. Returns `None` for other engines, which must not be killed.
    #[must_use]
    pub fn of(engine: &str, host: &str) -> Option<Self> {
        let site = Site::of_checkout().ok()?;
        let engine: Engine = engine.parse().ok()?;
        let ours = site.status(engine)?.host()? == host;
        ours.then_some(Self { site, engine })
    }

    pub(crate) fn new(site: Site, engine: Engine) -> Self {
        Self { site, engine }
    }

    pub(crate) async fn restart(&self) -> Result<Running, BoxError> {
        let Self { site, engine } = self.clone();
        Ok(tokio::task::spawn_blocking(move || site.restart(engine)).await??)
    }
}

#[async_trait]
impl EngineControl for Control {
    async fn kill(&self) -> Result<(), BoxError> {
        let Self { site, engine } = self.clone();
        Ok(tokio::task::spawn_blocking(move || site.kill_hard(engine)).await??)
    }

    async fn start(&self) -> Result<(), BoxError> {
        self.restart().await.map(drop)
    }
}
