//! The client part of SPDY/3.1 that Kubernetes remote commands need, and remote commands over it.
//!
//! The web no longer uses SPDY, but Kubernetes API servers and the streaming servers of containerd
//! and CRI-O do. On servers without version 5 of the WebSocket protocol, SPDY is the only way to
//! end the standard input of a command. This crate has the codec ([`codec`]), connections with
//! their streams ([`Connection`], [`Stream`]), and the remote command protocol
//! ([`remote_command`]). It runs over any `AsyncRead + AsyncWrite` and does not depend on
//! containers.
//!
//! # Conformance
//! This crate follows the draft of the protocol (*SPDY Protocol - Draft 3.1*, the Chromium project)
//! as far as clients of these servers need it. It differs intentionally in two points, because the
//! only server implementation (the Go package spdystream) does not follow the draft:
//!
//! - **Flow control uses the connection only.** The server neither sends nor honours
//!   `WINDOW_UPDATE`, so a client that waits for one would block forever after 64 KiB. Received
//!   `WINDOW_UPDATE` frames are accepted and ignored. Memory stays bounded because every stream has
//!   a bounded receive buffer, and the socket is not read while one of them is full. All streams of
//!   a connection must therefore be read concurrently, like the pipes of a process;
//!   [dropping](ReadHalf) a read half discards its bytes and never blocks.
//! - **Data follows the reply.** The server discards the data of a stream that it has not replied
//!   to yet: wait for [`Stream::reply`] before the first write.

pub mod codec;
mod connection;
mod driver;
mod entry;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod liveness;
pub mod remote_command;
mod state;
mod stream;

pub use codec::{CodecError, Headers, ResetStatus};
pub use connection::{Config, Connection};
pub use driver::Driver;
pub use error::Error;
pub use stream::{ReadHalf, Stream, WriteHalf};
