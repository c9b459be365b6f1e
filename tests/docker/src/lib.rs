//! Docker's API engines as subjects of the conformance suite, and a raw way to look at them.

mod differences;
mod raw;
mod subject;

pub use raw::Raw;
pub use subject::{DockerSubject, Environment};
