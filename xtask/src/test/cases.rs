//! Selected test cases.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use glob::Pattern;

use super::binaries::Binary;

/// Variable with the patterns for programs with the custom harness.
const CASES: &str = "RUNTIME_TEST_CASES";

/// Patterns of case names; empty for all cases.
#[derive(Debug, Default)]
pub struct Cases {
    patterns: Vec<Pattern>,
}

impl Cases {
    /// Parses patterns.
    pub fn parse(patterns: &[String]) -> Result<Self> {
        let patterns = patterns.iter().map(|pattern| {
            // The programs split the list at commas.
            ensure!(!pattern.contains(','), "a pattern has a comma: repeat `--case` instead");
            Pattern::new(pattern).with_context(|| format!("--case {pattern:?} is not a pattern"))
        });
        Ok(Self { patterns: patterns.collect::<Result<_>>()? })
    }

    /// Returns true if all cases are selected.
    pub fn is_all(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Returns a command that runs these cases of a program with the custom harness.
    pub fn command_for_custom_harness(&self, binary: &Binary) -> Command {
        let mut command = binary.command();
        if !self.is_all() {
            let patterns: Vec<_> = self.patterns.iter().map(Pattern::as_str).collect();
            command.env(CASES, patterns.join(","));
        }
        command
    }

    /// Returns a command that runs these cases of a program with the standard harness, or `None` if
    /// it has none of them.
    pub fn command_for_standard_harness(&self, binary: &Binary) -> Result<Option<Command>> {
        let mut command = binary.command();
        if self.is_all() {
            return Ok(Some(command));
        }
        let listed = binary
            .command()
            .args(["--list", "--format", "terse"])
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("failed to list the tests of {}", binary.name))?;
        ensure!(listed.status.success(), "failed to list the tests of {}", binary.name);
        let names = self.names_in(&String::from_utf8_lossy(&listed.stdout));
        if names.is_empty() {
            return Ok(None);
        }
        command.arg("--exact").args(names);
        Ok(Some(command))
    }

    /// Returns the matching names of a list with `NAME: test` lines. The first module, such as
    /// `faults`, may be omitted if it is the file's name.
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
    fn patterns_match_names_of_standard_harness() {
        let list = "faults::own::a: test\nfaults::own::b: test\nfaults::pull::c: test\n\n3 tests";
        let found = |pattern: &str| cases(&[pattern]).unwrap().names_in(list);
        assert_eq!(found("own::*"), ["faults::own::a", "faults::own::b"]);
        assert_eq!(found("faults::pull::*"), ["faults::pull::c"]);
        assert!(found("own").is_empty());
    }

    #[test]
    fn invalid_pattern_returns_error() {
        assert!(cases(&["stop::["]).is_err());
        assert!(cases(&["a,b"]).is_err());
        assert!(cases(&[]).unwrap().is_all());
    }
}
