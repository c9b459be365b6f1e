//! The conformance suite: what a backend of [`runtime_core`] has to keep, shown on a real engine.
//!
//! A *case* is one function with a name. Its body is the same for every backend; what differs is
//! the [`Subject`], by which a backend brings its engine, the images and the registry. A case
//! names the [capabilities](runtime_core::Capability) that it needs. Where the engine lacks one,
//! the case is reported as ignored with that capability's name, and the capability's *twin* runs
//! in its place, which shows that the call or the field is refused.
//!
//! A test of a backend is a target with `harness = false`:
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     runtime_conformance::run(MyEngine::from_env)
//! }
//! ```
//!
//! It takes the arguments that `cargo test` passes on: a filter, `--list`, `--test-threads`,
//! `--exact`, `--skip`. With `RUNTIME_TEST_REPORT` set to a path, the outcome is written there as
//! JSON, see [`Report`]. An engine that is not there is a failure of the run.
//!
//! Each case has a scope and a connection of its own, so cases run in parallel and do not need an
//! empty engine. After each, whatever happened in it, everything of its scope is removed, and the
//! engine's own listing must show nothing of it any more. Cases that kill the engine run after
//! all others, one by one.
//!
//! # What the images must have
//!
//! See [`Images`].

mod case;
mod cases;
mod child;
mod clean;
mod context;
mod expect;
mod failure;
mod panics;
mod poll;
mod report;
mod runner;
mod subject;
mod twins;

pub use case::{Body, Case, CaseFn};
pub use context::Context;
pub use failure::{Failure, Outcome};
pub use report::{Ignored, KnownDifference, Report};
pub use runner::run;
pub use subject::{BoxError, Difference, EngineControl, GpuProof, Images, Registry, Subject};

/// All cases, in the order in which they are listed.
#[must_use]
pub fn cases() -> Vec<Case> {
    cases::all()
}
