//! What the users of an engine see of it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::engine::Engine;
use crate::instance::{self, State};
use crate::process::Process;
use crate::site::Site;

/// An engine that is up. Dropping it does not stop the engine.
#[derive(Debug, Clone)]
pub struct Running {
    site: Site,
    engine: Engine,
    state: State,
}

impl Running {
    /// Which engine it is.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Its version, as it says itself: `20.10.24`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.state.version
    }

    /// The path of the Unix socket that it listens on, where it has one.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.state.socket.as_deref()
    }

    /// The socket in the form of `DOCKER_HOST` or of a CRI endpoint.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        self.socket().map(|socket| format!("unix://{}", socket.display()))
    }

    /// The daemon's process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.state.daemon
    }

    /// Where the daemon's own words go.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        instance::log(&self.site, self.engine)
    }

    /// The variables that tests read, in the order in which to print them. Those of the
    /// registry are among them if it is up.
    ///
    /// # Errors
    /// If the shared folder cannot be made.
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
    /// Brings an engine up; it may be up already.
    ///
    /// # Errors
    /// If something cannot be installed, or the engine does not answer in time: its last words
    /// are in the error.
    pub fn up(&self, engine: Engine) -> Result<Running> {
        instance::up(self, engine).map(|state| self.running(engine, state))
    }

    /// Stops an engine and removes what is left of it; true if there was anything.
    ///
    /// # Errors
    /// If something stays.
    pub fn down(&self, engine: Engine) -> Result<bool> {
        instance::down(self, engine)
    }

    /// The engine, if it is up and answers.
    #[must_use]
    pub fn status(&self, engine: Engine) -> Option<Running> {
        State::read(self, engine)
            .filter(|state| state.is_healthy(engine))
            .map(|state| self.running(engine, state))
    }

    /// Kills the daemon as a crash would. Its containers stay.
    ///
    /// # Errors
    /// If the engine is not up.
    pub fn kill_hard(&self, engine: Engine) -> Result<()> {
        instance::kill_hard(self, engine)
    }

    /// Starts the daemon of an engine again, after [`Site::kill_hard`] or in place of the one
    /// that runs. Socket, containers and images are the same.
    ///
    /// # Errors
    /// If it does not answer in time.
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
    /// As there.
    pub fn up(self) -> Result<Running> {
        Site::of_checkout()?.up(self)
    }

    /// See [`Site::down`].
    ///
    /// # Errors
    /// As there.
    pub fn down(self) -> Result<bool> {
        Site::of_checkout()?.down(self)
    }

    /// See [`Site::status`].
    ///
    /// # Errors
    /// If the folder of the site cannot be made.
    pub fn status(self) -> Result<Option<Running>> {
        Ok(Site::of_checkout()?.status(self))
    }

    /// See [`Site::kill_hard`].
    ///
    /// # Errors
    /// As there.
    pub fn kill_hard(self) -> Result<()> {
        Site::of_checkout()?.kill_hard(self)
    }

    /// See [`Site::restart`].
    ///
    /// # Errors
    /// As there.
    pub fn restart(self) -> Result<Running> {
        Site::of_checkout()?.restart(self)
    }
}
