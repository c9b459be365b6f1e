//! Engines with Docker's API as subjects of the conformance suite, and a raw client for them.

mod differences;
mod raw;
mod subject;

pub use raw::Raw;
pub use subject::{DockerSubject, Environment};
