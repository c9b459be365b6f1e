//! Parts of the test run, with their programs and engines.

use clap::ValueEnum;
use test_engines::Engine;

/// A part of the tests that can run separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Unit and documentation tests
    Unit,
    /// The tests of the engines themselves: start, stop, and cleanup
    Engines,
    /// Docker Engine
    Docker,
    /// Podman
    Podman,
    /// containerd
    Cri,
    /// Kubernetes
    K8s,
}

/// Default parts.
pub const PARTS_DEFAULT: &[Part] =
    &[Part::Unit, Part::Engines, Part::Docker, Part::Podman, Part::Cri, Part::K8s];

impl Part {
    /// Returns the package with the part's tests on engines; `None` for parts without an engine of
    /// the environment.
    pub fn package(self) -> Option<&'static str> {
        match self {
            Self::Unit | Self::Engines => None,
            Self::Docker | Self::Podman => Some("docker-tests"),
            Self::Cri => Some("cri-tests"),
            Self::K8s => Some("k8s-tests"),
        }
    }

    /// Returns the package with the CLI tests, if they run on the part's engines.
    pub fn command_line(self) -> Option<&'static str> {
        matches!(self, Self::Docker | Self::Cri | Self::K8s).then_some("cli-tests")
    }

    /// Returns the number of concurrent fault tests; `None` for the harness's default. The faults
    /// of a cluster are mostly idle, and exclude each other where necessary.
    pub fn fault_threads(self) -> Option<usize> {
        (self == Self::K8s).then_some(4)
    }

    /// Returns the engines on which the part runs.
    pub fn engines(self, matrix: bool) -> &'static [Engine] {
        match (self, matrix) {
            (Self::Unit | Self::Engines, _) => &[],
            (Self::Docker, false) => &[Engine::Docker],
            (Self::Docker, true) => &[Engine::Docker, Engine::Docker26, Engine::Docker28],
            (Self::Podman, false) => &[Engine::Podman],
            (Self::Podman, true) => &[Engine::Podman, Engine::Podman54, Engine::Podman58],
            (Self::Cri, false) => &[Engine::Containerd],
            (Self::Cri, true) => &[Engine::Containerd, Engine::Containerd17, Engine::Containerd21],
            (Self::K8s, _) => &[Engine::Kubernetes],
        }
    }
}

/// Program that runs on every engine, like [`FAULTS`]; other programs of a package run once per
/// backend.
pub const CONFORMANCE: &str = "conformance";

/// Program with the tests of one backend. It uses the standard harness.
pub const FAULTS: &str = "faults";

/// Modules of [`FAULTS`] without an engine, or with an engine that does not depend on the
/// environment. Running them on a second engine would repeat them.
pub const FAULTS_WITHOUT_ENGINE: &[&str] = &[
    "dependencies::",
    "dropped::",
    "engine_stops::",
    "full_disk::",
    "no_engine::",
    "sessions::",
    "thrown_away::",
];

/// Programs that run only with `--matrix`. Their parts are from Debian unstable, which changes
/// daily, and take a minute to build: other changes must not wait for that or fail because of it.
pub const MATRIX_ONLY: &[&str] = &["conformance_translator"];

/// Program that runs the cases of [`CONFORMANCE`] on the same engine in another way, where they
/// take as long.
const NODE_CONFORMANCE: &str = "conformance_node";

/// Returns the row of a conformance program: the engine's name, with the rest of the program's name
/// if the program uses the engine in another way. `None` for other programs.
pub fn row_of(engine: Engine, binary: &str) -> Option<String> {
    let way = binary.strip_prefix(CONFORMANCE)?;
    Some(format!("{engine}{}", way.replace('_', "-")))
}

/// Returns the value of `RUNTIME_TEST_LEAVE_OUT` for a program in the plain run. `is_first` is set
/// for the first engine of a backend.
pub fn leave_out(binary: &str, is_first: bool) -> String {
    // A program without a focus runs every case.
    let mut words = vec!["unfocused"];
    if !is_first || binary == NODE_CONFORMANCE {
        words.push("long");
    }
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_conformance_program_has_a_row() {
        let row = |binary: &str| row_of(Engine::Kubernetes, binary);
        assert_eq!(row("conformance").as_deref(), Some("kubernetes"));
        assert_eq!(row("conformance_node").as_deref(), Some("kubernetes-node"));
        assert_eq!(row("conformance_stats").as_deref(), Some("kubernetes-stats"));
        assert_eq!(row("faults"), None);
    }

    #[test]
    fn long_cases_run_once_for_each_backend() {
        assert_eq!(leave_out(CONFORMANCE, true), "unfocused");
        assert_eq!(leave_out(CONFORMANCE, false), "unfocused,long");
        assert_eq!(leave_out("conformance_node", true), "unfocused,long");
        assert_eq!(leave_out("conformance_websocket", true), "unfocused");
    }
}
