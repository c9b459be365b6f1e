//! Failure of a case.

use std::fmt;
use std::panic::Location;

/// Result of a case.
pub type Outcome = Result<(), Failure>;

/// Reason and source position of a failure. `?` converts every error to it.
pub struct Failure {
    text: String,
    place: Option<&'static Location<'static>>,
}

impl Failure {
    /// Creates a failure with a message.
    #[must_use]
    #[track_caller]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), place: Some(Location::caller()) }
    }

    /// Creates a failure whose message already contains its position.
    pub(crate) fn placed(text: String) -> Self {
        Self { text, place: None }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new(text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.place {
            Some(place) => write!(f, " ({}:{})", place.file(), place.line()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Ends the case as failed with a formatted message.
macro_rules! fail {
    ($($words:tt)*) => { return Err(crate::Failure::new(format!($($words)*))) };
}

pub(crate) use fail;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_chain_and_its_place() {
        fn failing() -> Outcome {
            Err(runtime_core::Error::internal("the words")
                .with_source(std::io::Error::other("the cause")))?;
            Ok(())
        }
        let text = failing().unwrap_err().to_string();
        assert!(text.contains("the words: the cause"), "{text}");
        assert!(text.contains("failure.rs"), "{text}");
    }
}
