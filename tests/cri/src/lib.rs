//! containerd as the subject of the conformance suite, and a raw client for it.

mod device;
mod raw;
mod subject;

pub use raw::Raw;
pub use subject::{CriSubject, Environment};
