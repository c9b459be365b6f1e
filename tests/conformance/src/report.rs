//! The outcome of a run, for other programs.

use std::path::Path;

use serde::Serialize;

/// The outcome of a run. It is written as JSON to the path in `RUNTIME_TEST_REPORT`.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The engine's name, [`Subject::engine`](crate::Subject::engine).
    pub engine: String,
    /// The engine's version, as it says itself.
    pub version: String,
    /// What it can do, as it said when it was connected.
    pub capabilities: runtime_core::Capabilities,
    /// How many cases and twins passed.
    pub passed: usize,
    /// The names of those that failed.
    pub failed: Vec<String>,
    /// The cases that the engine's capabilities leave out.
    pub ignored: Vec<Ignored>,
    /// The cases that this run leaves out, see `RUNTIME_TEST_LEAVE_OUT`.
    pub left_out: Vec<LeftOut>,
    /// The cases in whose place a known difference was asserted.
    pub differences: Vec<KnownDifference>,
    /// How long the run took, in seconds.
    pub seconds: f64,
    /// The cases with their seconds, the slowest first.
    pub slowest: Vec<(String, f64)>,
}

/// A case that did not run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct Ignored {
    /// Its name.
    pub case: String,
    /// The capability that is missing.
    pub capability: String,
}

/// A case that this run leaves out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct LeftOut {
    /// Its name.
    pub case: String,
    /// Why.
    pub reason: String,
}

/// A case that ran in another form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct KnownDifference {
    /// Its name.
    pub case: String,
    /// Why.
    pub reason: String,
}

impl Report {
    /// Sorts everything, so that two reports of the same outcome differ in times only.
    pub(crate) fn finish(&mut self, mut durations: Vec<(String, f64)>) {
        self.failed.sort();
        self.ignored.sort();
        self.left_out.sort();
        self.differences.sort();
        durations.sort_by(|a, b| b.1.total_cmp(&a.1));
        self.slowest = durations;
    }

    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_programs_can_read_it() {
        let mut report = Report {
            engine: "docker".to_owned(),
            version: "1.2".to_owned(),
            passed: 2,
            failed: vec!["b".to_owned(), "a".to_owned()],
            ignored: vec![Ignored { case: "exec::output".into(), capability: "exec".into() }],
            ..Report::default()
        };
        report.finish(vec![("short".to_owned(), 0.5), ("long".to_owned(), 2.0)]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["engine"], "docker");
        assert_eq!(json["version"], "1.2");
        assert_eq!(json["passed"], 2);
        assert_eq!(json["failed"], serde_json::json!(["a", "b"]));
        assert_eq!(
            json["ignored"],
            serde_json::json!([{"case": "exec::output", "capability": "exec"}])
        );
        assert_eq!(json["slowest"][0][0], "long");
    }
}
