//! Kubernetes remote commands over SPDY: `exec` and `attach`, version 4.
//!
//! [`open`] requests the upgrade from an HTTP/1.1 server over the caller's transport.
//! [`upgrade_request`], [`check_upgrade`] and [`start`] are its parts, for callers whose HTTP
//! client performs the upgrade. Each of the command's stdin, stdout and stderr is a stream of one
//! [`Connection`](crate::Connection), and one more stream carries the outcome.
//!
//! These functions have no timeout: each future can be dropped at any time, which closes the
//! connection.
//!
//! # Server behaviour
//! Measured on containerd 1.6, 1.7 and 2.1, and through a Kubernetes 1.20 API server and its
//! kubelet, which all behave as follows:
//!
//! - The outputs end before the outcome is sent. Then unfinished streams are reset, and the
//!   connection is closed.
//! - The server does not report when it stops reading stdin. It stops when the process has closed
//!   its outputs, and reports success: `sh -c 'cat >file'` received 192 KiB of 100 MiB. The
//!   connection may then end before the outcome arrives, which is [`Error::NoOutcome`]. To verify a
//!   transfer, let the remote side confirm the number of bytes.
//! - If a process exits with more unread input than the pipes hold, the server never sends the
//!   outcome and stops reading. Both outputs have then ended while a write is pending: apply a
//!   timeout, and treat the outcome as lost after it.
//! - No server uses flow control or opens streams. Pings are answered, except, according to the
//!   server's source, while it waits for a process that does not read (not measured).

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
