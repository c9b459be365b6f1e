//! The parts of the test run, and what each of them runs on which engine.

use clap::ValueEnum;
use test_engines::Engine;

/// A part of the tests that can be run by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Unit and documentation tests
    Unit,
    /// The tests of the engines themselves: they come up, and leave nothing
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

/// The parts that run if none is named.
pub const WHOLE: &[Part] =
    &[Part::Unit, Part::Engines, Part::Docker, Part::Podman, Part::Cri, Part::K8s];

impl Part {
    /// The package with its tests on engines; `None` for the parts that have no engine of the
    /// environment.
    pub fn package(self) -> Option<&'static str> {
        match self {
            Self::Unit | Self::Engines => None,
            Self::Docker | Self::Podman => Some("docker-tests"),
            Self::Cri => Some("cri-tests"),
            Self::K8s => Some("k8s-tests"),
        }
    }

    /// The package with the tests of the command line, if they run on the engines of the part.
    pub fn command_line(self) -> Option<&'static str> {
        matches!(self, Self::Docker | Self::Cri | Self::K8s).then_some("cli-tests")
    }

    /// How many of its faults run at a time; `None` for the default of the harness. Those of a cluster
    /// mostly wait, and keep apart from each other by themselves what would disturb another.
    pub fn fault_threads(self) -> Option<usize> {
        (self == Self::K8s).then_some(4)
    }

    /// The engines that it is tested on.
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

/// The program that runs on every engine. Beside it [`FAULTS`] does; any other one of a package runs
/// once for each backend.
pub const CONFORMANCE: &str = "conformance";

/// The program with the tests that only one backend has. It has the standard test harness.
pub const FAULTS: &str = "faults";

/// The modules of [`FAULTS`] that use no engine, or an engine of their own that is the same whatever
/// the environment names: on a second engine they would only repeat themselves.
pub const ON_NO_ENGINE: &[&str] = &[
    "dependencies::",
    "dropped::",
    "engine_stops::",
    "full_disk::",
    "no_engine::",
    "sessions::",
    "thrown_away::",
];

/// Programs that run with `--matrix` alone. Its parts are fetched from unstable, which changes on
/// any day, and are built for a minute: no change should wait for that or fail by it.
pub const MATRIX_ONLY: &[&str] = &["conformance_translator"];

/// The program whose cases are those of [`CONFORMANCE`] on the same engine in another way, and are
/// as long there.
const ANOTHER_WAY: &str = "conformance_node";

/// The name of the row of a conformance program: the engine's, with the rest of the program's name
/// if it uses the engine in another way. `None` for any other program.
pub fn row_of(engine: Engine, binary: &str) -> Option<String> {
    let way = binary.strip_prefix(CONFORMANCE)?;
    Some(format!("{engine}{}", way.replace('_', "-")))
}

/// What the plain run leaves out of a program, as `RUNTIME_TEST_LEAVE_OUT` names it. `is_first`: the
/// engine is the first one of its backend in this run.
pub fn leave_out(binary: &str, is_first: bool) -> String {
    // A program without a focus has every case in it.
    let mut words = vec!["unfocused"];
    if !is_first || binary == ANOTHER_WAY {
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
