//! Reports of the test programs, and the table of results.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::output::Output;
use crate::guard::Stop;

/// Report that a conformance program writes to `RUNTIME_TEST_REPORT`.
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
    /// The slowest cases with their seconds.
    #[serde(default)]
    slowest: Vec<(String, f64)>,
    /// The output of each failed case.
    #[serde(skip)]
    output: BTreeMap<String, Vec<String>>,
    /// The case whose output is being read.
    #[serde(skip)]
    output_of: Option<String>,
}

/// Number of output lines of a failed case that are repeated below the table.
const OUTPUT_LINES_MAX: usize = 8;

/// A case that was ignored, and the missing capability.
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

/// A case that was replaced by the assertion of a known difference of the engine. The report counts
/// it as passed.
#[derive(Debug, Deserialize)]
pub struct Difference {
    case: String,
    reason: String,
}

/// Results of one engine.
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

/// Duration of a case.
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
        let Report { failed, output, .. } = &report;
        self.failed.extend(failed.iter().map(|case| {
            let output = output.get(case).map_or(&[][..], Vec::as_slice);
            let last = output[output.len().saturating_sub(OUTPUT_LINES_MAX)..].iter();
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

    /// Returns true if the other row is of the same engine in the same version.
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

    /// Returns true if the row has no case.
    pub fn is_empty(&self) -> bool {
        self.passed == 0
            && self.failed.is_empty()
            && self.ignored.is_empty()
            && self.left_out.is_empty()
    }

    /// Returns true if a case has passed.
    pub fn has_passed(&self) -> bool {
        self.passed > 0
    }

    /// Returns the failures of this row. With `may_be_left_out`, a row whose cases all run in
    /// another row is not a failure.
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

/// Runs a test program, prints its output, and returns its report. If the program writes no report,
/// its output is parsed as that of the standard harness.
pub fn run(
    stop: &Stop,
    output: &Output,
    command: &mut Command,
    path: &Path,
    title: &str,
) -> Result<Report> {
    // Prevents an earlier report from being used.
    let _ = std::fs::remove_file(path);
    let mut seen = Report::default();
    let success =
        output.timed(title, || output.run_with(stop, command, |line| seen.parse_line(line)))?;
    let mut report = match std::fs::read(path) {
        Ok(text) => {
            let report: Report =
                serde_json::from_slice(&text).context("failed to parse the report")?;
            Report { output: seen.output, ..report }
        }
        Err(_) => seen,
    };
    if !success && report.failed.is_empty() {
        report.failed.push("ended with an error".to_owned());
    }
    Ok(report)
}

impl Report {
    /// Parses a line of the standard harness: `test NAME ... ok`, and the output of failed tests
    /// after `---- NAME stdout ----`.
    fn parse_line(&mut self, line: &str) {
        let title = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" ----"));
        if let Some(title) = title {
            self.output_of = Some(title.strip_suffix(" stdout").unwrap_or(title).to_owned());
            return;
        }
        if line == "failures:" {
            self.output_of = None;
        }
        if let Some(case) = &self.output_of {
            if !line.is_empty() {
                self.output.entry(case.clone()).or_default().push(line.to_owned());
            }
            return;
        }
        let Some((case, result)) =
            line.strip_prefix("test ").and_then(|line| line.rsplit_once(" ... "))
        else {
            return;
        };
        let case = case.trim().to_owned();
        // With `--report-time` the result is `ok <0.123s>`.
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

/// Formats a row per engine and version, followed by the ignored cases and known differences with
/// their reasons. A known difference replaces its case and is not counted as passed.
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

/// Formats the ten slowest cases of all rows.
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
    fn output_of_standard_harness_is_parsed() {
        let mut report = Report::default();
        for line in [
            "test a::b ... ok",
            "test c ... FAILED",
            "test d ... ignored, exec",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored",
        ] {
            report.parse_line(line);
        }
        assert_eq!(report.passed, 1);
        assert_eq!(report.failed, ["c"]);
        assert_eq!(report.ignored[0].capability, "exec");
    }

    #[test]
    fn slowest_lists_cases_of_all_rows() {
        let mut report = Report::default();
        for line in ["test a ... ok <0.250s>", "test b ... FAILED <12.5s>", "test c ... ok"] {
            report.parse_line(line);
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
    fn table_lists_left_out_cases_with_reason() {
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
    fn faults_repeat_output_of_failed_case() {
        let mut report = Report::default();
        let lines = "test a ... FAILED\ntest b ... FAILED\n\nfailures:\n\n---- a stdout ----\nfirst\n\n\
                     Error: x\n\n---- b ----\ny\n\n\nfailures:\n    a\n    b\n";
        lines.split('\n').for_each(|line| report.parse_line(line));
        let mut row = Row::new("docker", "1");
        row.add("faults", report);
        assert_eq!(
            row.faults(false),
            ["docker 1: faults: a\n    first\n    Error: x", "docker 1: faults: b\n    y"]
        );
    }

    #[test]
    fn table_groups_ignored_cases_by_capability() {
        let mut row = Row::new("docker", "20.10.24");
        let report = r#"{"engine":"docker","version":"20.10.24","passed":2,"failed":["x"],
            "ignored":[{"case":"a","capability":"exec"},{"case":"b","capability":"exec"}]}"#;
        row.add("conformance", serde_json::from_str(report).unwrap());
        let text = table(std::slice::from_ref(&row));
        assert!(text.contains("exec: 2 (a, b)"), "{text}");
        assert_eq!(row.faults(false), ["docker 20.10.24: conformance: x"]);
    }

    #[test]
    fn known_differences_are_listed_and_not_passed() {
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
    fn row_without_cases_is_a_fault() {
        let mut row = Row::new("podman", "4.3.1");
        assert_eq!((row.faults(false).len(), row.faults(true).len()), (1, 1));
        row.left_out.push(LeftOut { case: "a::b".into(), reason: "long".into() });
        assert_eq!((row.faults(false).len(), row.faults(true).len()), (1, 0));
    }
}
