//! containerd as the subject of the conformance suite, and a raw way to look at it.

mod device;
mod raw;
mod subject;

pub use raw::Raw;
pub use subject::{CriSubject, Environment};
