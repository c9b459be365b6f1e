//! What the tests of several backends share, beside the conformance suite.
//!
//! For all of them: what the [environment] says, the [`Control`] of an engine that this checkout
//! has brought up, and [images](push_image) for it.
//!
//! For the fault tests: a [`Connection`] with a scope of its own, an [`Own`] engine that may be
//! frozen and killed, and what has to come of calls, waits and sessions then. How an engine is
//! connected to, what it lists and which part of it dies differs between backends, and stands in
//! their own tests; what must hold stands here once.

mod connection;
mod control;
mod dependencies;
pub mod environment;
mod expect;
mod images;
pub mod no_engine;
mod own;
mod sessions;
mod stops;
mod waiter;

pub use connection::{Connection, scope};
pub use control::Control;
pub use dependencies::brings_along;
pub use expect::{Outcome, PATIENCE, fails, until};
pub use images::{busybox, push_image};
pub use own::Own;
pub use sessions::sessions_die_with;
pub use stops::{deadlines_of, dies_in_mid_call, does_not_answer};
pub use waiter::{Waiter, all_killed};
