//! Random numbers.

use runtime_core::Nonce;

/// A random number: where a create is dropped has to differ from run to run.
pub(crate) fn random() -> u32 {
    Nonce::random()
        .ok()
        .and_then(|nonce| u32::from_str_radix(&nonce.as_str()[..8], 16).ok())
        .unwrap_or(0)
}
