//! Kubernetes remote commands over SPDY: `exec` and `attach`, version 4.
//!
//! [`open`] asks an HTTP/1.1 server for the upgrade over a transport of the caller's;
//! [`upgrade_request`], [`check_upgrade`] and [`start`] are its parts, for a caller whose HTTP
//! client does the upgrade. Each input and output of the command is a stream of one
//! [`Connection`](crate::Connection), and one more carries the outcome.
//!
//! None of these functions has a time limit of its own: each future can be dropped at any time,
//! which closes the connection.
//!
//! # What servers do (containerd 1.6, measured)
//! - Outputs end before the outcome comes. A failed start resets the outputs after it.
//! - The server does not say when it stops reading standard input. It does so when the process
//!   has closed its outputs or has ended, with an outcome of success
//!   (`sh -c 'cat >file'` can lose most of a large input). Whoever needs a transfer to be whole has
//!   the far side confirm the number of bytes.
//! - A process that ends and leaves much of its input unread can keep the server from ever sending
//!   the outcome, though the outputs have ended.

mod error;
mod handshake;
mod options;
mod outcome;
mod session;

pub use error::Error;
pub use handshake::{PROTOCOL, check_upgrade, open, upgrade_request};
pub use options::{Options, Streams};
pub use outcome::{Failure, Outcome};
pub use session::{Exit, Output, Resize, Session, start};
