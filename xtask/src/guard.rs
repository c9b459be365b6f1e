//! Cleanup after failures and after Ctrl-C.

use std::ops::Deref;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use test_engines::{Engine, Footprint, Site};

/// Terminates commands when this process receives a termination signal.
#[derive(Debug, Clone)]
pub struct Stop {
    interrupted: Arc<AtomicBool>,
}

/// Stops the engines that were not up before.
#[derive(Debug)]
pub struct Guard {
    stop: Stop,
    site: Site,
    keep: bool,
    before: Vec<Engine>,
    started: Mutex<Vec<Engine>>,
}

impl Guard {
    pub fn new(site: Site, keep: bool) -> Result<Self> {
        let stop = Stop::new()?;
        let before =
            Engine::ALL.into_iter().filter(|engine| site.status(*engine).is_some()).collect();
        Ok(Self { stop, site, keep, before, started: Mutex::default() })
    }

    fn started(&self) -> MutexGuard<'_, Vec<Engine>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an engine; returns true if it was not up before.
    pub fn up(&self, engine: Engine) -> Result<bool> {
        self.check()?;
        let new = !self.before.contains(&engine);
        if new {
            self.started().push(engine);
        }
        self.site.up(engine)?;
        Ok(new)
    }

    /// Stops an engine that `up` started, unless engines are kept.
    pub fn down(&self, engine: Engine) -> Result<()> {
        if !self.keep {
            self.site.down(engine)?;
            self.started().retain(|other| *other != engine);
        }
        Ok(())
    }

    /// Stops all started engines, and checks that nothing is left of them.
    pub fn finish(self) -> Result<()> {
        if self.keep {
            return Ok(());
        }
        let mut engines = self.started.into_inner().unwrap_or_else(PoisonError::into_inner);
        // These are started by tests, which do not stop them after a failure.
        engines.extend(
            [Engine::DockerFaults, Engine::DockerOwnPids, Engine::ContainerdFaults]
                .into_iter()
                .filter(|engine| !self.before.contains(engine)),
        );
        let mut outcome = Ok(());
        for engine in engines.into_iter().rev() {
            outcome = outcome.and(self.site.down(engine).map(drop));
        }
        outcome?;
        if self.before.is_empty() {
            let left = Footprint::now()?.of(&self.site);
            ensure!(left.is_empty(), "leftovers: {}", left.join("\n"));
        }
        Ok(())
    }
}

impl Deref for Guard {
    type Target = Stop;

    fn deref(&self) -> &Stop {
        &self.stop
    }
}

impl Stop {
    /// Registers handlers for the termination signals.
    pub fn new() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Self { interrupted })
    }

    /// Returns an error after a termination signal.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Runs a command until it exits or this process is terminated.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let child = command.spawn().context("failed to run a command")?;
        let success = self.wait(child)?;
        ensure!(success, "{} failed", describe(command));
        Ok(())
    }

    /// Runs a command that cleans up after itself: it is terminated with SIGTERM instead of killed.
    pub fn run_until_cleaned_up(&self, command: &mut Command) -> Result<()> {
        let child = command.spawn().context("failed to run a command")?;
        let success = self.wait_after(child, Signal::TERM)?;
        ensure!(success, "{} failed", describe(command));
        Ok(())
    }

    /// Waits for a child, and kills it if this process is terminated.
    pub fn wait(&self, child: Child) -> Result<bool> {
        self.wait_after(child, Signal::KILL)
    }

    fn wait_after(&self, mut child: Child, signal: Signal) -> Result<bool> {
        loop {
            if let Some(status) = child.try_wait()? {
                // A child that was terminated by the same Ctrl-C has not failed.
                self.check()?;
                return Ok(status.success());
            }
            if self.interrupted.load(Ordering::Relaxed) {
                kill_process(Pid::from_child(&child), signal).context("failed to end a command")?;
                child.wait()?;
                bail!("interrupted");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|word| word.to_string_lossy()));
    words.join(" ")
}
