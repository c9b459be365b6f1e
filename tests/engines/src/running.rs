//! Public view of a running engine.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::engine::Engine;
use crate::instance::{self, State};
use crate::process::Process;
use crate::site::Site;

/// A running engine. Dropping it does not stop the engine.
#[derive(Debug, Clone)]
pub struct Running {
    site: Site,
    engine: Engine,
    state: State,
}

impl Running {
    /// Returns the engine.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Returns the version that the engine reports: `20.10.24`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.state.version
    }

    /// Returns the path of the Unix socket, if there is one.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.state.socket.as_deref()
    }

    /// Returns the socket in the form of `DOCKER_HOST` or of a CRI endpoint.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        self.socket().map(|socket| format!("unix://{}", socket.display()))
    }

    /// Returns the daemon's process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.state.daemon
    }

    /// Returns the path of the daemon's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        instance::log(&self.site, self.engine)
    }

    /// Returns the variables for tests in printing order, including those of the registry if it is
    /// up.
    ///
    /// # Errors
    /// If the shared directory cannot be created.
    pub fn variables(&self) -> Result<Vec<(String, String)>> {
        let mut all: Vec<(String, String)> = Vec::new();
        if self.engine.is_docker() {
            all.extend(self.host().map(|host| ("RUNTIME_TEST_DOCKER_HOST".to_owned(), host)));
        }
        if self.engine.is_cri() {
            all.extend(self.host().map(|host| ("RUNTIME_TEST_CRI_ENDPOINT".to_owned(), host)));
        }
        if self.engine != Engine::Registry {
            all.push(("RUNTIME_TEST_ENGINE".to_owned(), self.engine.name().to_owned()));
        }
        let shared = self.site.shared_dir()?.to_string_lossy().into_owned();
        all.push(("RUNTIME_TEST_SHARED_DIR".to_owned(), shared));
        all.extend(self.state.values.clone());
        if self.engine != Engine::Registry {
            let registry = State::read(&self.site, Engine::Registry);
            all.extend(registry.map(|state| state.values).into_iter().flatten());
        }
        Ok(all)
    }
}

impl Site {
    /// Starts an engine, unless it is running.
    ///
    /// # Errors
    /// If an installation fails, or the engine does not respond in time; the error has the end of
    /// its log.
    pub fn up(&self, engine: Engine) -> Result<Running> {
        instance::up(self, engine).map(|state| self.running(engine, state))
    }

    /// Stops an engine and removes its leftovers; returns true if there were any.
    ///
    /// # Errors
    /// If anything remains.
    pub fn down(&self, engine: Engine) -> Result<bool> {
        instance::down(self, engine)
    }

    /// Returns the engine, if it is running and responds.
    #[must_use]
    pub fn status(&self, engine: Engine) -> Option<Running> {
        State::read(self, engine)
            .filter(|state| state.is_healthy(engine))
            .map(|state| self.running(engine, state))
    }

    /// Kills the daemon like a crash. Its containers survive.
    ///
    /// # Errors
    /// If the engine is not up.
    pub fn kill_hard(&self, engine: Engine) -> Result<()> {
        instance::kill_hard(self, engine)
    }

    /// Starts a killed daemon, or restarts a running one. Socket, containers and images do not
    /// change.
    ///
    /// # Errors
    /// If the daemon does not respond in time.
    pub fn restart(&self, engine: Engine) -> Result<Running> {
        instance::restart(self, engine).map(|state| self.running(engine, state))
    }

    fn running(&self, engine: Engine, state: State) -> Running {
        Running { site: self.clone(), engine, state }
    }
}

/// The same for the site of the checkout.
impl Engine {
    /// See [`Site::up`].
    ///
    /// # Errors
    /// Same as [`Site::up`].
    pub fn up(self) -> Result<Running> {
        Site::of_checkout()?.up(self)
    }

    /// See [`Site::down`].
    ///
    /// # Errors
    /// Same as [`Site::down`].
    pub fn down(self) -> Result<bool> {
        Site::of_checkout()?.down(self)
    }

    /// See [`Site::status`].
    ///
    /// # Errors
    /// If the site's directory cannot be created.
    pub fn status(self) -> Result<Option<Running>> {
        Ok(Site::of_checkout()?.status(self))
    }

    /// See [`Site::kill_hard`].
    ///
    /// # Errors
    /// Same as [`Site::kill_hard`].
    pub fn kill_hard(self) -> Result<()> {
        Site::of_checkout()?.kill_hard(self)
    }

    /// See [`Site::restart`].
    ///
    /// # Errors
    /// Same as [`Site::restart`].
    pub fn restart(self) -> Result<Running> {
        Site::of_checkout()?.restart(self)
    }
}
