//! What more than one backend needs and what takes an async executor.

mod check;
pub mod copy;
mod credentials;
mod deadline;
mod exits;
pub mod follow;
mod half_made;
pub mod kernel_log;
pub mod ports;
pub mod process;
#[cfg(feature = "session")]
pub mod session;
mod tar;
mod version;

pub use check::{check_exec, check_path, exec_command};
pub use credentials::{Credential, find_credential};
pub use deadline::within;
pub use exits::{ExitHub, ExitSource, Sight, Wake, WakeStream};
pub use half_made::HalfMade;
pub use tar::{END_OF_TAR, zeros_at_end};
pub use version::version_numbers;
