//! Takes care that nothing stays behind: not after a failure, not after Ctrl-C.

use std::ops::Deref;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use test_engines::{Engine, Footprint, Site};

/// Ends commands when this process is told to end.
#[derive(Debug, Clone)]
pub struct Stop {
    interrupted: Arc<AtomicBool>,
}

/// Knows which engines were up before, and stops the others in the end.
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

    /// Brings an engine up; true if it was not up before.
    pub fn up(&self, engine: Engine) -> Result<bool> {
        self.check()?;
        let new = !self.before.contains(&engine);
        if new {
            self.started().push(engine);
        }
        self.site.up(engine)?;
        Ok(new)
    }

    /// Stops an engine that `up` has started, unless it is to be kept.
    pub fn down(&self, engine: Engine) -> Result<()> {
        if !self.keep {
            self.site.down(engine)?;
            self.started().retain(|other| *other != engine);
        }
        Ok(())
    }

    /// Stops what was started, and looks whether anything is left of it.
    pub fn finish(self) -> Result<()> {
        if self.keep {
            return Ok(());
        }
        let mut engines = self.started.into_inner().unwrap_or_else(PoisonError::into_inner);
        // The tests start these by themselves; one that fails cannot stop them.
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
            ensure!(left.is_empty(), "left behind: {}", left.join("\n"));
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
    /// Registers for the signals by which a process is told to end.
    pub fn new() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        Ok(Self { interrupted })
    }

    /// Fails once this process was told to end.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Runs a command to its end, or to ours.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let child = command.spawn().context("cannot run a command")?;
        let success = self.wait(child)?;
        ensure!(success, "{} failed", describe(command));
        Ok(())
    }

    /// Runs a command that cleans up after itself: it is told to end, and not killed.
    pub fn run_to_its_end(&self, command: &mut Command) -> Result<()> {
        let child = command.spawn().context("cannot run a command")?;
        let success = self.wait_after(child, Signal::TERM)?;
        ensure!(success, "{} failed", describe(command));
        Ok(())
    }

    /// Waits for a child; kills it if this process is told to end.
    pub fn wait(&self, child: Child) -> Result<bool> {
        self.wait_after(child, Signal::KILL)
    }

    fn wait_after(&self, mut child: Child, signal: Signal) -> Result<bool> {
        loop {
            if let Some(status) = child.try_wait()? {
                // A child that the same Ctrl-C ended has not failed by itself.
                self.check()?;
                return Ok(status.success());
            }
            if self.interrupted.load(Ordering::Relaxed) {
                kill_process(Pid::from_child(&child), signal).context("cannot end a command")?;
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
