//! Client of CRI v1, which `cargo xtask codegen` generates from the protocol file in `proto/`.

#![allow(
    dead_code,
    deprecated,
    missing_docs,
    unreachable_pub,
    rust_2018_idioms,
    clippy::all,
    reason = "generated, and not all of it is used"
)]

#[rustfmt::skip]
#[path = "generated/runtime.v1.rs"]
mod runtime_v1;

pub(crate) use runtime_v1::*;

impl std::fmt::Debug for AuthConfig {
    /// Omits the password and the tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}
