//! Conformance suite: the requirements on a backend of [`runtime_core`], tested on a real engine.
//!
//! A *case* is a named function. Its body is the same for every backend; only the [`Subject`] differs,
//! with which a backend provides its engine, the images and the registry. A case names the
//! [capabilities](runtime_core::Capability) that it needs. If the engine lacks one, the case is reported as
//! ignored with the name of that capability, and the *twin* of the capability runs instead: it asserts that
//! the call or the field is refused.
//!
//! A test of a backend is a target with `harness = false`:
//!
//! ```no_run
//! use std::net::{IpAddr, Ipv4Addr};
//! use std::path::PathBuf;
//! use std::sync::Arc;
//!
//! use runtime_conformance::{BoxError, EngineControl, Images, Registry, Subject};
//! use runtime_core::{Runtime, Scope, async_trait};
//! # async fn connect(_: &str, _: &Scope) -> runtime_core::Result<Arc<dyn Runtime>> { unreachable!() }
//! # fn push(_: &str) -> Result<String, BoxError> { unreachable!() }
//! # fn ask_the_engine(_: &str, _: &Scope) -> Result<Vec<String>, BoxError> { unreachable!() }
//!
//! struct MyEngine {
//!     socket: String,
//!     registry: Registry,
//! }
//!
//! #[async_trait]
//! impl Subject for MyEngine {
//!     fn engine(&self) -> String {
//!         "my-engine".to_owned()
//!     }
//!     async fn connect(&self, scope: &Scope) -> runtime_core::Result<Arc<dyn Runtime>> {
//!         connect(&self.socket, scope).await
//!     }
//!     fn images(&self) -> Images {
//!         Images::of_registry(&self.registry.address)
//!     }
//!     fn registry(&self) -> Registry {
//!         self.registry.clone()
//!     }
//!     async fn push_image(&self, name: &str) -> Result<String, BoxError> {
//!         push(name)
//!     }
//!     async fn forget_image(&self, _: &str) -> Result<bool, BoxError> {
//!         Ok(false)
//!     }
//!     fn shared_dir(&self) -> Option<PathBuf> {
//!         Some("/srv/shared".into())
//!     }
//!     fn published_address(&self) -> IpAddr {
//!         Ipv4Addr::LOCALHOST.into()
//!     }
//!     async fn leftovers(&self, scope: &Scope) -> Result<Vec<String>, BoxError> {
//!         ask_the_engine(&self.socket, scope)
//!     }
//!     fn control(&self) -> Option<&dyn EngineControl> {
//!         None
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     runtime_conformance::run(|| {
//!         Ok(MyEngine {
//!             socket: std::env::var("MY_ENGINE")?,
//!             registry: Registry::new("127.0.0.1:5000", "user", "password"),
//!         })
//!     })
//! }
//! ```
//!
//! The program accepts the arguments of `cargo test`: a filter, `--list`, `--test-threads`, `--exact`,
//! `--skip`. If `RUNTIME_TEST_REPORT` is set to a path, the outcome is written there as JSON, see [`Report`].
//! A run without a reachable engine fails.
//!
//! Two variables select cases. `RUNTIME_TEST_CASES` contains the patterns of the only cases to run, separated
//! by commas (`stop::*,list::five_hundred`). `RUNTIME_TEST_LEAVE_OUT` contains the groups that a run leaves
//! out because a parallel run covers them: `long` (expensive cases) and `unfocused` (cases outside of the
//! [`Focus`] of the program). These cases are reported as ignored with the reason. Without the variables
//! every case runs.
//!
//! Each case has a scope and a connection of its own, so cases run in parallel and do not need an empty
//! engine. After each case, passed or failed, everything in its scope is removed, and the engine's own
//! listing must show nothing of it. Cases that kill the engine run after all others, one at a time.
//!
//! # Requirements on the images
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
mod random;
mod report;
mod runner;
mod selection;
mod shared;
mod subject;
mod trace;
mod twins;

pub use case::{Body, Case, CaseFn};
pub use context::Context;
pub use failure::{Failure, Outcome};
pub use report::{Ignored, KnownDifference, LeftOut, Report};
pub use runner::{run, run_focused};
pub use selection::{Focus, Requested};
pub use subject::{BoxError, Difference, EngineControl, GpuProof, Images, Registry, Subject};

/// Returns all cases in the order of the listing.
#[must_use]
pub fn cases() -> Vec<Case> {
    cases::all()
}
