//! Conformance suite on the engine of the environment.

use std::process::ExitCode;

use cri_tests::CriSubject;

fn main() -> ExitCode {
    runtime_conformance::run(CriSubject::from_env)
}
