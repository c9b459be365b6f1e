//! Random numbers.

use runtime_core::Nonce;

/// Returns a random number, so that a create is dropped at another point in each run.
pub(crate) fn random() -> u32 {
    Nonce::random()
        .ok()
        .and_then(|nonce| u32::from_str_radix(&nonce.as_str()[..8], 16).ok())
        .unwrap_or(0)
}
