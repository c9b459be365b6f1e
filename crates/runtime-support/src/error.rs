//! What an error says beyond its kind.

use std::error::Error as StdError;

use runtime_core::{Error, ErrorKind};

/// The first error of a type among an error and its sources.
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

/// Whether an engine may have done what it was asked although it did not say so: the answer did not
/// come, was lost, or says that something went wrong on the way.
///
/// A backend that knows of a request that it never left does not ask.
#[must_use]
pub fn is_unclear(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Lost | ErrorKind::Internal
    )
}
