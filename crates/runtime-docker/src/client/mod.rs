//! The wire: one HTTP client, the requests that several operations send, and sessions.

pub(crate) mod connector;
pub(crate) mod deadline;
pub(crate) mod events;
pub(crate) mod http;
pub(crate) mod identify;
pub(crate) mod inspect;
mod json_lines;
pub(crate) mod list;
pub(crate) mod session;
#[cfg(feature = "tls")]
mod tls;
