//! Lenient deserialization of JSON fields.
//!
//! Other programs can create pods with the labels of this library, and policies change its pods.
//! One malformed value must not fail a list of thousands, so it is deserialized as absent.

use std::collections::BTreeMap;
use std::fmt;

use runtime_core::{Error, ErrorKind};
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Deserializes JSON of the server.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> runtime_core::Result<T> {
    readable(serde_json::from_slice(bytes))
}

/// Converts the error of a deserialization.
pub(crate) fn readable<T>(read: serde_json::Result<T>) -> runtime_core::Result<T> {
    read.map_err(|source| {
        Error::new(ErrorKind::Unavailable)
            .with_message("the response is not one of an API server")
            .with_retryable(false)
            .with_source(source)
    })
}

/// Deserializes a field that may be absent or `null`.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A value of JSON without its structure.
pub(crate) enum Scalar {
    Number(i128),
    Text(String),
    /// Null, a boolean, a list or an object.
    Other,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number.into()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number.into()))
            }

            #[expect(clippy::cast_possible_truncation, reason = "such a cast saturates")]
            fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number as i128))
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
                Ok(Scalar::Text(text))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }

            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Scalar, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl Scalar {
    pub(crate) fn number(self) -> Option<i128> {
        match self {
            Self::Number(number) => Some(number),
            Self::Text(text) => text.parse().ok(),
            Self::Other => None,
        }
    }

    pub(crate) fn text(self) -> Option<String> {
        match self {
            Self::Number(number) => Some(number.to_string()),
            Self::Text(text) => Some(text),
            Self::Other => None,
        }
    }
}

/// Deserializes a string. Another type is an empty string.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.text().unwrap_or_default())
}

/// Deserializes a string that may be absent.
pub(crate) fn some_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.text())
}

/// Deserializes a map of strings without values of another type.
pub(crate) fn texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let texts = Option::<BTreeMap<String, Scalar>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(texts.into_iter().filter_map(|(key, value)| Some((key, value.text()?))).collect())
}

/// Deserializes a number. A number out of range is absent.
pub(crate) fn number<'de, D: Deserializer<'de>, T: TryFrom<i128>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.number().and_then(|number| T::try_from(number).ok()))
}

/// Deserializes a number that is 0 if absent.
pub(crate) fn number_or_zero<'de, D: Deserializer<'de>, T: TryFrom<i128> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(number(deserializer)?.unwrap_or_default())
}

/// Deserializes an exit code. A malformed one is never that of a success.
pub(crate) fn exit_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    Ok(number(deserializer)?.unwrap_or_else(no_exit_code))
}

pub(crate) const fn no_exit_code() -> i32 {
    -1
}

/// Deserializes seconds. The cluster treats a negative grace as the shortest one.
pub(crate) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number = Scalar::deserialize(deserializer)?.number();
    Ok(number.map(|seconds| {
        if seconds < 0 { 1 } else { u64::try_from(seconds.min(i64::MAX.into())).unwrap_or(1) }
    }))
}
