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
//! # What servers do
//! Measured on containerd 1.6, 1.7 and 2.1, and through a Kubernetes 1.20 API server and its
//! kubelet; they are alike in this:
//!
//! - Outputs end before the outcome comes. Streams that are not finished by then are reset, and the
//!   connection is closed.
//! - The server does not say when it stops reading standard input. It does so when the process has
//!   closed its outputs, and then reports success: `sh -c 'cat >file'` got 192 KiB of 100 MiB.
//!   The end of the connection can overtake the outcome then, which is [`Error::NoOutcome`].
//!   Whoever needs a transfer to be whole has the far side confirm the number of bytes.
//! - A process that ends and leaves more input unread than pipes hold keeps the server from ever
//!   sending the outcome, and from reading anything else. Both outputs have ended and a write
//!   waits: bound the time that you give it, and take the outcome for lost after that.
//! - No server uses flow control or opens streams. Pings are answered; by the server's source, not
//!   while it waits for a process that does not read (not measured).

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
