//! An engine that a test has for itself, so that it may be killed.

use docker_tests::Environment;
use runtime_conformance::BoxError;
use runtime_core::Deadlines;
use test_engines::{Engine as TestEngine, Process, Running};
use tokio::sync::{Mutex, MutexGuard};

use super::support::{Engine, Outcome};

/// One test at a time has it.
static TURN: Mutex<()> = Mutex::const_new(());

const ENGINE: TestEngine = TestEngine::DockerFaults;

/// The engine. It goes at the end if it came for this test.
pub(super) struct Own {
    running: Running,
    ours: bool,
    _turn: MutexGuard<'static, ()>,
}

impl Own {
    pub(super) async fn up() -> Result<Self, BoxError> {
        let turn = TURN.lock().await;
        let ours = ENGINE.status()?.is_none();
        Ok(Self { running: ENGINE.up()?, ours, _turn: turn })
    }

    /// A connection with a scope of its own.
    pub(super) async fn connect(&self, deadlines: Deadlines) -> Result<Engine, BoxError> {
        let host = self.running.host().ok_or("an engine without a socket")?;
        let environment = Environment { host, ..Environment::read()? };
        Engine::at(environment, deadlines).await
    }

    pub(super) fn process(&self) -> &Process {
        self.running.process()
    }

    /// Kills the daemon as a crash would.
    pub(super) fn kill(&self) -> Outcome {
        Ok(ENGINE.kill_hard()?)
    }

    /// Starts it again.
    pub(super) fn restart(&mut self) -> Outcome {
        self.running = ENGINE.restart()?;
        Ok(())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // A frozen daemon does not go.
        let _ = self.running.process().thaw();
        if self.ours {
            let _ = ENGINE.down();
        }
    }
}
