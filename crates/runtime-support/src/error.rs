//! Inspection of errors.

use std::error::Error as StdError;

use runtime_core::{Error, ErrorKind};

/// Returns the first error of type `T` in the source chain, beginning with `error` itself.
pub fn find_source<'a, T: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Returns `true` if the engine may have performed the request despite the error: the response is
/// missing, was lost, or reports an internal failure.
///
/// A backend does not need this function for a request that was never sent.
#[must_use]
pub fn is_unclear(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Lost | ErrorKind::Internal
    )
}
