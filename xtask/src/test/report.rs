//! What the test programs say of themselves, and the table of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::output::Output;
use crate::guard::Stop;

/// What a conformance program writes to `RUNTIME_TEST_REPORT`.
#[derive(Debug, Default, Deserialize)]
pub struct Report {
    #[serde(default)]
    passed: usize,
    #[serde(default)]
    failed: Vec<String>,
    #[serde(default)]
    ignored: Vec<Ignored>,
    #[serde(default)]
    left_out: Vec<LeftOut>,
    #[serde(default)]
    differences: Vec<Difference>,
    /// The longest cases, with their seconds.
    #[serde(default)]
    slowest: Vec<(String, f64)>,
    /// What the program has printed of each that failed.
    #[serde(skip)]
    words: BTreeMap<String, Vec<String>>,
    /// The one that it prints the words of.
    #[serde(skip)]
    telling: Option<String>,
}

/// How much of what a case that failed has printed is said again below the table: its last lines.
const LAST_WORDS: usize = 8;

/// A case that was left out, and the capability that the engine lacks.
#[derive(Debug, Deserialize)]
pub struct Ignored {
    case: String,
    capability: String,
}

/// A case that the plain run leaves out.
#[derive(Debug, Deserialize)]
pub struct LeftOut {
    case: String,
    reason: String,
}

/// A case in whose place a known difference of the engine was asserted. The report counts it
/// as passed.
#[derive(Debug, Deserialize)]
pub struct Difference {
    case: String,
    reason: String,
}

/// One engine's results.
#[derive(Debug)]
pub struct Row {
    engine: String,
    version: String,
    passed: usize,
    failed: Vec<String>,
    ignored: Vec<Ignored>,
    left_out: Vec<LeftOut>,
    differences: Vec<Difference>,
    durations: Vec<Duration>,
}

/// How long a case took.
#[derive(Debug, Clone, PartialEq)]
pub struct Duration {
    row: String,
    case: String,
    seconds: f64,
}

impl Row {
    pub fn new(engine: &str, version: &str) -> Self {
        Self {
            engine: engine.to_owned(),
            version: version.to_owned(),
            passed: 0,
            failed: Vec::new(),
            ignored: Vec::new(),
            left_out: Vec::new(),
            differences: Vec::new(),
            durations: Vec::new(),
        }
    }

    pub fn add(&mut self, binary: &str, report: Report) {
        self.passed += report.passed;
        let Report { failed, words, .. } = &report;
        self.failed.extend(failed.iter().map(|case| {
            let words = words.get(case).map_or(&[][..], Vec::as_slice);
            let last = words[words.len().saturating_sub(LAST_WORDS)..].iter();
            let last: String = last.map(|line| format!("\n    {line}")).collect();
            format!("{binary}: {case}{last}")
        }));
        self.ignored.extend(report.ignored);
        self.left_out.extend(report.left_out);
        let row = &self.engine;
        self.durations.extend(report.slowest.into_iter().map(|(case, seconds)| Duration {
            row: row.clone(),
            case: format!("{binary}: {case}"),
            seconds,
        }));
        self.differences.extend(report.differences);
    }

    /// Whether the other row is of the same engine in the same version.
    pub fn is_of_same_engine(&self, other: &Self) -> bool {
        (&self.engine, &self.version) == (&other.engine, &other.version)
    }

    /// Adds another row of the same engine.
    pub fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.ignored.extend(other.ignored);
        self.left_out.extend(other.left_out);
        self.differences.extend(other.differences);
        self.durations.extend(other.durations);
    }

    /// Whether nothing in it was to run.
    pub fn is_empty(&self) -> bool {
        self.passed == 0
            && self.failed.is_empty()
            && self.ignored.is_empty()
            && self.left_out.is_empty()
    }

    /// Whether a case of it has passed.
    pub fn has_passed(&self) -> bool {
        self.passed > 0
    }

    /// Why this row is no success. With `may_be_left_out`, a row whose cases all run in another row
    /// is not a fault.
    pub fn faults(&self, may_be_left_out: bool) -> Vec<String> {
        let mut faults: Vec<_> = self
            .failed
            .iter()
            .map(|case| format!("{} {}: {case}", self.engine, self.version))
            .collect();
        let is_left_out = may_be_left_out && !self.left_out.is_empty();
        if self.passed == 0 && faults.is_empty() && !is_left_out {
            faults.push(format!("{}: no case has run", self.engine));
        }
        faults
    }
}

/// Runs a test program, shows its output, and reads what it reports; a program that writes no
/// report is taken by the last line of the standard test harness.
pub fn run(
    stop: &Stop,
    output: &Output,
    command: &mut Command,
    path: &Path,
    title: &str,
) -> Result<Report> {
    // A report of an earlier run must not pass for this one's.
    let _ = std::fs::remove_file(path);
    let mut seen = Report::default();
    let success =
        output.timed(title, || output.run_with(stop, command, |line| seen.take_line(line)))?;
    let mut report = match std::fs::read(path) {
        Ok(text) => {
            let report: Report = serde_json::from_slice(&text).context("the report is damaged")?;
            Report { words: seen.words, ..report }
        }
        Err(_) => seen,
    };
    if !success && report.failed.is_empty() {
        report.failed.push("ended with an error".to_owned());
    }
    Ok(report)
}

impl Report {
    /// `test NAME ... ok`, and the output of those that failed under `---- NAME stdout ----`, as the
    /// standard harness prints them.
    fn take_line(&mut self, line: &str) {
        let title = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" ----"));
        if let Some(title) = title {
            self.telling = Some(title.strip_suffix(" stdout").unwrap_or(title).to_owned());
            return;
        }
        if line == "failures:" {
            self.telling = None;
        }
        if let Some(case) = &self.telling {
            if !line.is_empty() {
                self.words.entry(case.clone()).or_default().push(line.to_owned());
            }
            return;
        }
        let Some((case, result)) =
            line.strip_prefix("test ").and_then(|line| line.rsplit_once(" ... "))
        else {
            return;
        };
        let case = case.trim().to_owned();
        // With `--report-time`, as `ok <0.123s>`.
        let (result, seconds) = match result.trim().split_once(" <") {
            Some((result, time)) => (result, time.trim_end_matches("s>").parse().ok()),
            None => (result.trim(), None),
        };
        self.slowest.extend(seconds.map(|seconds| (case.clone(), seconds)));
        match result {
            "ok" => self.passed += 1,
            "FAILED" => self.failed.push(case),
            ignored => {
                if let Some(reason) = ignored.strip_prefix("ignored") {
                    self.ignored.push(Ignored {
                        case,
                        capability: reason.trim_start_matches([',', ' ']).to_owned(),
                    });
                }
            }
        }
    }
}

/// A row per engine and version; below it, what was ignored or differs, and why. A known difference
/// is asserted in place of its case: it is not counted as passed.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<20} {:<10} {:>7} {:>7} {:>8} {:>9} {:>8}",
        "engine", "version", "passed", "failed", "ignored", "left out", "differs"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:<20} {:<10} {:>7} {:>7} {:>8} {:>9} {:>8}",
            row.engine,
            row.version,
            row.passed.saturating_sub(row.differences.len()),
            row.failed.len(),
            row.ignored.len(),
            row.left_out.len(),
            row.differences.len()
        );
    }
    for row in rows.iter().filter(|row| !row.ignored.is_empty()) {
        let mut by_capability: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for ignored in &row.ignored {
            by_capability.entry(&ignored.capability).or_default().push(&ignored.case);
        }
        let _ = writeln!(text, "\nignored on {} {}:", row.engine, row.version);
        for (capability, cases) in by_capability {
            let name = match capability {
                "" => "(no capability named)",
                name => name,
            };
            let _ = writeln!(text, "  {name}: {} ({})", cases.len(), cases.join(", "));
        }
    }
    for row in rows.iter().filter(|row| !row.left_out.is_empty()) {
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for left_out in &row.left_out {
            by_reason.entry(&left_out.reason).or_default().push(&left_out.case);
        }
        let _ =
            writeln!(text, "\nleft out on {} {} (`--matrix` runs it):", row.engine, row.version);
        for (reason, cases) in by_reason {
            let _ = writeln!(text, "  {reason}: {} ({})", cases.len(), cases.join(", "));
        }
    }
    for row in rows.iter().filter(|row| !row.differences.is_empty()) {
        let _ = writeln!(text, "\nknown differences on {} {}:", row.engine, row.version);
        for Difference { case, reason } in &row.differences {
            let _ = writeln!(text, "  {case}: {reason}");
        }
    }
    text
}

/// The ten longest cases of all rows.
pub fn slowest(rows: &[Row]) -> String {
    let mut all: Vec<_> = rows.iter().flat_map(|row| &row.durations).collect();
    all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let mut text = String::new();
    for Duration { row, case, seconds } in all.into_iter().take(10) {
        let _ = writeln!(text, "{seconds:>8.1} s  {row} {case}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_harness_is_understood() {
        let mut report = Report::default();
        for line in [
            "test a::b ... ok",
            "test c ... FAILED",
            "test d ... ignored, exec",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored",
        ] {
            report.take_line(line);
        }
        assert_eq!(report.passed, 1);
        assert_eq!(report.failed, ["c"]);
        assert_eq!(report.ignored[0].capability, "exec");
    }

    #[test]
    fn the_slowest_cases_of_all_rows_are_shown() {
        let mut report = Report::default();
        for line in ["test a ... ok <0.250s>", "test b ... FAILED <12.5s>", "test c ... ok"] {
            report.take_line(line);
        }
        assert_eq!((report.passed, report.failed.len()), (2, 1));
        let mut docker = Row::new("docker", "1");
        docker.add("faults", report);
        let mut podman = Row::new("podman", "1");
        let many: Vec<_> = (0..10).map(|number| format!(r#"["x::{number}", 1.5]"#)).collect();
        let report = format!(r#"{{"passed":10,"slowest":[{}]}}"#, many.join(","));
        podman.add("conformance", serde_json::from_str(&report).unwrap());
        let text = slowest(&[docker, podman]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 10);
        assert_eq!(lines[0], "    12.5 s  docker faults: b");
        assert_eq!(lines[1], "     1.5 s  podman conformance: x::0");
    }

    #[test]
    fn cases_that_were_left_out_are_shown_with_the_reason() {
        let mut row = Row::new("podman", "4.3.1");
        let report = r#"{"passed":1,"left_out":[{"case":"a::b","reason":"long"},
            {"case":"a::c","reason":"long"}]}"#;
        row.add("conformance", serde_json::from_str(report).unwrap());
        let text = table(std::slice::from_ref(&row));
        assert!(text.contains("  long: 2 (a::b, a::c)\n"), "{text}");
        let line = text.lines().find(|line| line.starts_with("podman")).unwrap();
        let numbers: Vec<_> = line.split_whitespace().skip(2).collect();
        assert_eq!(numbers, ["1", "0", "0", "2", "0"]);
    }

    #[test]
    fn what_a_failed_case_says_is_said_again() {
        let mut report = Report::default();
        let lines = "test a ... FAILED\ntest b ... FAILED\n\nfailures:\n\n---- a stdout ----\nfirst\n\n\
                     Error: x\n\n---- b ----\ny\n\n\nfailures:\n    a\n    b\n";
        lines.split('\n').for_each(|line| report.take_line(line));
        let mut row = Row::new("docker", "1");
        row.add("faults", report);
        assert_eq!(
            row.faults(false),
            ["docker 1: faults: a\n    first\n    Error: x", "docker 1: faults: b\n    y"]
        );
    }

    #[test]
    fn the_table_groups_what_was_ignored() {
        let mut row = Row::new("docker", "20.10.24");
        let report = r#"{"engine":"docker","version":"20.10.24","passed":2,"failed":["x"],
            "ignored":[{"case":"a","capability":"exec"},{"case":"b","capability":"exec"}]}"#;
        row.add("conformance", serde_json::from_str(report).unwrap());
        let text = table(std::slice::from_ref(&row));
        assert!(text.contains("exec: 2 (a, b)"), "{text}");
        assert_eq!(row.faults(false), ["docker 20.10.24: conformance: x"]);
    }

    #[test]
    fn known_differences_are_told_and_do_not_count_as_passed() {
        let mut row = Row::new("podman", "4.3.1");
        let report = r#"{"passed":12,"differences":[{"case":"a::b","reason":"it is so"}]}"#;
        row.add("conformance", serde_json::from_str(report).unwrap());
        let text = table(std::slice::from_ref(&row));
        let line = text.lines().find(|line| line.starts_with("podman")).unwrap();
        let numbers: Vec<_> = line.split_whitespace().skip(2).collect();
        assert_eq!(numbers, ["11", "0", "0", "0", "1"]);
        assert!(text.contains("known differences on podman 4.3.1:\n  a::b: it is so\n"), "{text}");
        assert!(row.faults(false).is_empty());
    }

    #[test]
    fn a_row_without_a_case_is_a_fault() {
        let mut row = Row::new("podman", "4.3.1");
        assert_eq!((row.faults(false).len(), row.faults(true).len()), (1, 1));
        row.left_out.push(LeftOut { case: "a::b".into(), reason: "long".into() });
        assert_eq!((row.faults(false).len(), row.faults(true).len()), (1, 0));
    }
}
