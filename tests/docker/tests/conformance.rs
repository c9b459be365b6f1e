//! Conformance suite on the engine of the environment.

use std::process::ExitCode;

use docker_tests::DockerSubject;

fn main() -> ExitCode {
    runtime_conformance::run(DockerSubject::from_env)
}
