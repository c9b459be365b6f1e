//! Shared parts of the backends' tests, apart from the conformance suite.
//!
//! For all tests: the [environment], the [`Control`] of an engine that was started from this
//! checkout, and [images](push_image) for it.
//!
//! For fault tests: a [`Connection`] with its own scope, an [`Own`] engine that can be frozen and
//! killed, and the required results of calls, waits and sessions. Connecting to an engine, listing
//! its objects and stopping its components differ between backends, and are implemented in their
//! own tests.

mod connection;
mod control;
mod dependencies;
pub mod environment;
mod expect;
mod images;
pub mod no_engine;
mod own;
mod relay;
mod sessions;
mod stops;
mod waiter;

pub use connection::{Connection, scope};
pub use control::Control;
pub use dependencies::brings_along;
pub use expect::{Outcome, PATIENCE, fails, until};
pub use images::{busybox, push_image};
pub use own::Own;
pub use relay::relay;
pub use sessions::sessions_die_with;
pub use stops::{deadlines_of, dies_in_mid_call, does_not_answer};
pub use waiter::{Waiter, all_killed};
