//! Where the output of a step goes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::guard::Stop;

/// Output of a step. Each line has the name of the step in front if steps run side by side.
#[derive(Debug, Clone)]
pub struct Output {
    prefix: String,
}

impl Output {
    /// Lines as they are.
    pub fn plain() -> Self {
        Self { prefix: String::new() }
    }

    /// Lines with a name in front, in the form that the engines use.
    pub fn of(name: &str) -> Self {
        Self { prefix: format!("[{name}] ") }
    }

    /// Prints a line.
    pub fn line(&self, text: &str) {
        println!("{}{text}", self.prefix);
    }

    /// Runs a command, and prints what it writes to both streams.
    pub fn run(&self, stop: &Stop, command: &mut Command) -> Result<()> {
        let success = self.run_with(stop, command, |_| ())?;
        ensure!(success, "{:?} failed", command.get_program());
        Ok(())
    }

    /// Does the same, and gives each line of the standard output to `take`. Returns whether the
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
            .with_context(|| format!("cannot run {:?}", command.get_program()))?;
        let stdout = child.stdout.take().context("no output")?;
        let stderr = child.stderr.take().context("no error output")?;
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

    /// Does a step, and prints its name and how long it took.
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
    fn lines_of_a_command_are_taken_and_its_failure_is_seen() {
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
