//! Machine-readable report of a run.

use std::path::Path;

use serde::Serialize;

/// Result of a run. It is written as JSON to the path in `RUNTIME_TEST_REPORT`.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Name of the engine, [`Subject::engine`](crate::Subject::engine).
    pub engine: String,
    /// Version of the engine, as reported by the engine.
    pub version: String,
    /// Capabilities of the engine, as reported at connect.
    pub capabilities: runtime_core::Capabilities,
    /// Number of cases and twins that passed.
    pub passed: usize,
    /// Names of the cases and twins that failed.
    pub failed: Vec<String>,
    /// Cases that are ignored because the engine lacks a capability.
    pub ignored: Vec<Ignored>,
    /// Cases that this run leaves out, see `RUNTIME_TEST_LEAVE_OUT`.
    pub left_out: Vec<LeftOut>,
    /// Cases that were replaced by the assertion of a known difference.
    pub differences: Vec<KnownDifference>,
    /// Duration of the run in seconds.
    pub seconds: f64,
    /// Cases with their seconds, the slowest first.
    pub slowest: Vec<(String, f64)>,
}

/// Case that did not run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct Ignored {
    /// Name of the case.
    pub case: String,
    /// Name of the missing capability.
    pub capability: String,
}

/// Case that this run leaves out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct LeftOut {
    /// Name of the case.
    pub case: String,
    /// Reason.
    pub reason: String,
}

/// Case that ran in another form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct KnownDifference {
    /// Name of the case.
    pub case: String,
    /// Reason.
    pub reason: String,
}

impl Report {
    /// Sorts all lists, so that two reports of the same outcome differ in times only.
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
