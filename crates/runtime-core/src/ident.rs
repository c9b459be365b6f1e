//! Container names, container ids, scopes and label keys.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Prefix of all labels of this library. Labels of a caller must not use it.
pub const LABEL_PREFIX: &str = "container-runtime/";
/// Label of every created resource; the value is `true`.
pub const LABEL_MANAGED: &str = "container-runtime/managed";
/// Label of every created resource; the value is its [`Scope`].
pub const LABEL_SCOPE: &str = "container-runtime/scope";
/// Label of every created resource; the value is the [`Nonce`] of the create call.
pub const LABEL_NONCE: &str = "container-runtime/nonce";
/// Label of every created resource; the value is the creation time by the caller's clock, in
/// milliseconds since the Unix epoch.
pub const LABEL_CREATED_AT: &str = "container-runtime/created-at";

/// The set of containers that belong to one user of this library. Callers with different scopes on
/// one engine do not see each other's containers.
///
/// A scope consists of 1 to 63 characters of `a-z`, `0-9` and `-`, and begins and ends with a
/// letter or a digit, because it has to be valid as a Kubernetes label value and as a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(Arc<str>);

impl Scope {
    /// Creates a scope.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field `scope` if the characters or the length are invalid.
    pub fn new(scope: impl AsRef<str>) -> Result<Self> {
        let scope = scope.as_ref();
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if scope.is_empty()
            || scope.len() > 63
            || !scope.chars().all(|c| fits(c) || c == '-')
            || !scope.starts_with(fits)
            || !scope.ends_with(fits)
        {
            return Err(Error::invalid(
                "scope",
                format!(
                    "{scope:?} is not 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends"
                ),
            ));
        }
        Ok(Self(scope.into()))
    }

    /// Returns the scope as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The engine's identifier of a container: 64 hex digits on Docker, the UID on Kubernetes. Pass it
/// to [`Runtime::container`](crate::Runtime::container) to get a handle after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(Arc<str>);

impl ContainerId {
    /// Creates an id from the engine's string. The string is not validated.
    #[must_use]
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(id.as_ref().into())
    }

    /// Returns the id as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a container: 2 to 128 letters, digits, `_`, `.` and `-`, beginning with a letter or
/// a digit. This is Docker's rule for names (`[a-zA-Z0-9][a-zA-Z0-9_.-]+`) with a maximum length.
/// Names are unique on an engine across scopes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(Arc<str>);

impl ContainerName {
    /// Creates a name.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field `name` if the characters or the length are invalid.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        let good = (2..=128).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !good {
            return Err(Error::invalid(
                "name",
                format!(
                    "{name:?} is not 2 to 128 letters, digits, '_', '.' or '-' with a letter or digit first"
                ),
            ));
        }
        Ok(Self(name.into()))
    }

    /// Creates a unique name: `run-` and the nonce.
    #[must_use]
    pub fn from_nonce(nonce: &Nonce) -> Self {
        Self(format!("run-{}", nonce.as_str()).into())
    }

    /// Returns the name as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 128 random bits that identify one create call, as 32 hex digits. Every resource that the call
/// creates carries the nonce, so that a create with a lost response can be found and undone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(Arc<str>);

impl Nonce {
    /// Generates a nonce with the random number generator of the operating system.
    ///
    /// # Errors
    /// `Internal` if the operating system returns no random bytes.
    pub fn random() -> Result<Self> {
        use fmt::Write as _;
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes).map_err(|source| {
            Error::new(ErrorKind::Internal)
                .with_message("failed to generate random bytes")
                .with_source(source)
        })?;
        let mut text = String::with_capacity(32);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        Ok(Self(text.into()))
    }

    /// Returns the nonce as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    )*};
}

text!(Scope, ContainerId, ContainerName, Nonce);

macro_rules! checked {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }
    )*};
}

checked!(Scope, ContainerName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_with_invalid_characters_returns_invalid_argument() {
        for good in ["a", "ci-7", &"x".repeat(63)] {
            assert_eq!(Scope::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "a\0", &"x".repeat(64)] {
            let error = Scope::new(bad).unwrap_err();
            assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("scope")));
        }
    }

    #[test]
    fn name_with_invalid_characters_returns_invalid_argument() {
        for good in ["ab", "A.b-c_9", &"x".repeat(128)] {
            assert_eq!(ContainerName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a", "-ab", ".ab", "a/b", "a b", "ab\0", "ä-b", &"x".repeat(129)] {
            assert_eq!(ContainerName::new(bad).unwrap_err().field(), Some("name"));
        }
    }

    #[test]
    fn nonce_is_unique_and_yields_valid_name() {
        let (one, two) = (Nonce::random().unwrap(), Nonce::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.as_str().len(), 32);
        ContainerName::new(ContainerName::from_nonce(&one)).unwrap();
    }
}
