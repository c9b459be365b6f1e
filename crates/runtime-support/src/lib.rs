//! What more than one backend needs and what takes an async executor.

mod credentials;
mod deadline;
mod exits;
pub mod follow;
pub mod ports;
pub mod process;

pub use credentials::{Credential, CredentialError, find_credential};
pub use deadline::within;
pub use exits::{ExitHub, ExitSource, Sight, Wake, WakeStream};
