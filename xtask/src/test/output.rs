//! Output of steps.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::guard::Stop;

/// Output of a step. Each line is prefixed with the name of the step if steps run concurrently.
#[derive(Debug, Clone)]
pub struct Output {
    prefix: String,
}

impl Output {
    /// Creates an output without a prefix.
    pub fn plain() -> Self {
        Self { prefix: String::new() }
    }

    /// Creates an output with a name as prefix, in the format of the engines.
    pub fn of(name: &str) -> Self {
        Self { prefix: format!("[{name}] ") }
    }

    /// Prints a line.
    pub fn line(&self, text: &str) {
        println!("{}{text}", self.prefix);
    }

    /// Runs a command, and prints its stdout and stderr.
    pub fn run(&self, stop: &Stop, command: &mut Command) -> Result<()> {
        let success = self.run_with(stop, command, |_| ())?;
        ensure!(success, "{:?} failed", command.get_program());
        Ok(())
    }

    /// Same as [`run`](Self::run), and passes each line of stdout to `take`. Returns true if the
    /// command succeeded.
    pub fn run_with(
        &self,
        stop: &Stop,
        command: &mut Command,
        mut take: impl FnMut(&str) + Send,
    ) -> Result<bool> {
        let mut child: Child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to run {:?}", command.get_program()))?;
        let stdout = child.stdout.take().context("the command has no stdout")?;
        let stderr = child.stderr.take().context("the command has no stderr")?;
        std::thread::scope(|scope| {
            scope.spawn(|| self.copy(stdout, &mut take));
            scope.spawn(|| self.copy(stderr, &mut |_| ()));
            stop.wait(child)
        })
    }

    fn copy(&self, stream: impl Read, take: &mut (impl FnMut(&str) + ?Sized)) {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line);
            self.line(&line);
            take(&line);
        }
    }

    /// Runs a step, and prints its name and duration.
    pub fn timed<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.line(&format!("== {name}"));
        let start = Instant::now();
        let outcome = work();
        let word = if outcome.is_ok() { "done" } else { "FAILED" };
        self.line(&format!("== {name}: {word} in {:.1} s", start.elapsed().as_secs_f32()));
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_with_passes_lines_and_reports_failure() {
        let stop = Stop::new().unwrap();
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo error >&2; echo two; exit 3"]);
        let success =
            Output::of("x").run_with(&stop, &mut command, |line| lines.push(line.to_owned()));
        assert!(!success.unwrap());
        assert_eq!(lines, ["one", "two"]);
        assert!(Output::plain().run(&stop, &mut Command::new("false")).is_err());
    }
}
