//! The client part of SPDY/3.1 that Kubernetes remote commands need, and those commands over it.
//!
//! SPDY was retired from the web long ago, but Kubernetes API servers and the streaming servers of
//! containerd and CRI-O still speak it, and where they lack version 5 of the WebSocket protocol it
//! is the only way to end the standard input of a command. This crate has the codec
//! ([`codec`]), connections with their streams ([`Connection`], [`Stream`]), and the remote
//! command protocol ([`remote_command`]). It runs over anything that is `AsyncRead + AsyncWrite`
//! and knows nothing of containers.
//!
//! # What it follows
//! The draft of the protocol (*SPDY Protocol - Draft 3.1*, the Chromium project), as far as a
//! client of such a server meets it. Two things differ on purpose, because the one implementation
//! on the other side (the Go package spdystream) does not do what the draft says:
//!
//! - **Flow control is by the connection alone.** The server neither sends `WINDOW_UPDATE` nor
//!   heeds it, so that a client that waited for one would stop for ever after 64 KiB. Received
//!   `WINDOW_UPDATE` frames are accepted and change nothing. Memory stays flat because every
//!   stream has a bounded receive buffer, and the socket is not read while one of them is full.
//!   All streams of a connection therefore have to be read at the same time, as the two ends of a
//!   process have to be; [dropping](ReadHalf) a read half throws its bytes away and never blocks.
//! - **A reply comes before data.** The server throws away the data of a stream that it has not
//!   answered yet: wait for [`Stream::reply`] before the first write.

pub mod codec;
mod connection;
mod driver;
mod entry;
mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod remote_command;
mod silence;
mod state;
mod stream;

pub use codec::{CodecError, Headers, ResetStatus};
pub use connection::{Config, Connection};
pub use driver::Driver;
pub use error::Error;
pub use stream::{ReadHalf, Stream, WriteHalf};
