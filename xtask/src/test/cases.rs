//! The cases that were asked for by name.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use glob::Pattern;

use super::binaries::Binary;

/// The variable by which the programs with a harness of our own take the patterns.
const CASES: &str = "RUNTIME_TEST_CASES";

/// Patterns of the names of cases. None: all cases.
#[derive(Debug, Default)]
pub struct Cases {
    patterns: Vec<Pattern>,
}

impl Cases {
    /// Reads patterns.
    pub fn parse(patterns: &[String]) -> Result<Self> {
        let patterns = patterns.iter().map(|pattern| {
            // The programs take them separated by commas.
            ensure!(!pattern.contains(','), "a pattern has no comma: give `--case` once for each");
            Pattern::new(pattern).with_context(|| format!("--case {pattern:?} is not a pattern"))
        });
        Ok(Self { patterns: patterns.collect::<Result<_>>()? })
    }

    /// Whether every case is to run.
    pub fn is_all(&self) -> bool {
        self.patterns.is_empty()
    }

    /// A command that runs these cases of a program with a harness of our own.
    pub fn of_our_harness(&self, binary: &Binary) -> Command {
        let mut command = binary.command();
        if !self.is_all() {
            let patterns: Vec<_> = self.patterns.iter().map(Pattern::as_str).collect();
            command.env(CASES, patterns.join(","));
        }
        command
    }

    /// A command that runs these cases of a program with the standard harness. `None` if it has none
    /// of them.
    pub fn of_standard_harness(&self, binary: &Binary) -> Result<Option<Command>> {
        let mut command = binary.command();
        if self.is_all() {
            return Ok(Some(command));
        }
        let listed = binary
            .command()
            .args(["--list", "--format", "terse"])
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot list the tests of {}", binary.name))?;
        ensure!(listed.status.success(), "{} does not list its tests", binary.name);
        let names = self.names_in(&String::from_utf8_lossy(&listed.stdout));
        if names.is_empty() {
            return Ok(None);
        }
        command.arg("--exact").args(names);
        Ok(Some(command))
    }

    /// The names that match, of a list with a `NAME: test` in each line. A test in a module of the
    /// file's name, as all of `faults` are, is known without that too.
    fn names_in(&self, list: &str) -> Vec<String> {
        let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
        let is_wanted = |name: &&str| {
            let inner = name.split_once("::").map_or("", |(_, inner)| inner);
            self.patterns.iter().any(|pattern| pattern.matches(name) || pattern.matches(inner))
        };
        names.filter(is_wanted).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(patterns: &[&str]) -> Result<Cases> {
        Cases::parse(&patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn names_of_the_standard_harness_are_found() {
        let list = "faults::own::a: test\nfaults::own::b: test\nfaults::pull::c: test\n\n3 tests";
        let found = |pattern: &str| cases(&[pattern]).unwrap().names_in(list);
        assert_eq!(found("own::*"), ["faults::own::a", "faults::own::b"]);
        assert_eq!(found("faults::pull::*"), ["faults::pull::c"]);
        assert!(found("own").is_empty());
    }

    #[test]
    fn bad_patterns_are_refused() {
        assert!(cases(&["stop::["]).is_err());
        assert!(cases(&["a,b"]).is_err());
        assert!(cases(&[]).unwrap().is_all());
    }
}
