//! Names: of containers, of scopes, of labels.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// All labels of this library begin with it; a caller's labels must not.
pub const LABEL_PREFIX: &str = "container-runtime/";
/// On everything that this library makes: `true`.
pub const LABEL_MANAGED: &str = "container-runtime/managed";
/// On everything that this library makes: the [`Scope`] it belongs to.
pub const LABEL_SCOPE: &str = "container-runtime/scope";
/// On everything that this library makes: the [`Nonce`] of the create that made it.
pub const LABEL_NONCE: &str = "container-runtime/nonce";
/// On everything that this library makes: when it was made, by the caller's clock, in
/// milliseconds since the Unix epoch.
pub const LABEL_CREATED_AT: &str = "container-runtime/created-at";

/// Whose containers these are. Callers of one engine with different scopes do not see each
/// other's containers.
///
/// A scope is 1 to 63 characters of `a-z`, `0-9` and `-`, and begins and ends with a letter or
/// a digit: what a Kubernetes label value and a DNS label both allow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(Arc<str>);

impl Scope {
    /// Checks and makes a scope.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field `scope` when the characters or the length are wrong.
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

    /// The scope as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The engine's own name for one container: 64 hex digits on Docker, the UID on Kubernetes. It
/// is what [`Runtime::container`](crate::Runtime::container) takes after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(Arc<str>);

impl ContainerId {
    /// Takes an id as an engine gave it. Nothing is checked: the engine knows its own.
    #[must_use]
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(id.as_ref().into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a container: 2 to 128 characters of letters, digits, `_`, `.` and `-`, and the
/// first is a letter or a digit. That is Docker's rule for names (`[a-zA-Z0-9][a-zA-Z0-9_.-]+`)
/// with a longest length. Names are unique on one engine, whatever the scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(Arc<str>);

impl ContainerName {
    /// Checks and makes a name.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field `name`.
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

    /// A name that nobody has: `run-` and the nonce.
    #[must_use]
    pub fn from_nonce(nonce: &Nonce) -> Self {
        Self(format!("run-{}", nonce.as_str()).into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 128 random bits of one create call, as 32 hex digits. It stands on all that the call makes,
/// so that a create whose answer was lost can be found and undone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(Arc<str>);

impl Nonce {
    /// Draws a nonce from the operating system.
    ///
    /// # Errors
    /// `Internal` when the operating system gives no random bytes.
    pub fn random() -> Result<Self> {
        use fmt::Write as _;
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes).map_err(|source| {
            Error::new(ErrorKind::Internal).with_message("no random bytes").with_source(source)
        })?;
        let mut text = String::with_capacity(32);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        Ok(Self(text.into()))
    }

    /// The nonce as text.
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
    fn scopes() {
        for good in ["a", "ci-7", &"x".repeat(63)] {
            assert_eq!(Scope::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a b", "a\0", &"x".repeat(64)] {
            let error = Scope::new(bad).unwrap_err();
            assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("scope")));
        }
    }

    #[test]
    fn names() {
        for good in ["ab", "A.b-c_9", &"x".repeat(128)] {
            assert_eq!(ContainerName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a", "-ab", ".ab", "a/b", "a b", "ab\0", "ä-b", &"x".repeat(129)] {
            assert_eq!(ContainerName::new(bad).unwrap_err().field(), Some("name"));
        }
    }

    #[test]
    fn nonces_differ_and_make_good_names() {
        let (one, two) = (Nonce::random().unwrap(), Nonce::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.as_str().len(), 32);
        ContainerName::new(ContainerName::from_nonce(&one)).unwrap();
    }
}
