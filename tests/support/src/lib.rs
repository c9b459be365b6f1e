//! What the tests of several backends share, beside the conformance suite: what the
//! [environment] says, the [`Control`] of an engine that this checkout has brought up, and
//! [images](push_image) for it.

mod control;
mod differences;
pub mod environment;
mod images;

pub use control::Control;
pub use differences::no_last_carriage_return;
pub use images::{busybox, push_image};
