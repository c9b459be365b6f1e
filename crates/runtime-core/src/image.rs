//! Image references, registry credentials and pulls.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// An image, with credentials if its registry requires them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Image {
    /// The reference in any form accepted by [`ImageRef`].
    pub reference: String,
    /// Credentials of the registry. If absent, the backend reads them as Docker's command line
    /// does: from `config.json` in `DOCKER_CONFIG` or `~/.docker`, and from the credential helpers
    /// that this file names. This field is never serialised.
    #[serde(skip)]
    pub auth: Option<RegistryAuth>,
}

impl Image {
    /// Creates an image without credentials.
    #[must_use]
    pub fn new(reference: impl Into<String>) -> Self {
        Self { reference: reference.into(), auth: None }
    }

    /// Sets the credentials.
    #[must_use]
    pub fn auth(mut self, auth: RegistryAuth) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Parses the reference and checks that the credentials belong to its registry. For backends.
    ///
    /// # Errors
    /// `InvalidArgument` naming `image` if the reference is invalid, or naming
    /// `image.auth.server_address` if the credentials belong to another registry, because a
    /// password must not be sent to a registry for which it was not issued.
    pub fn resolve(&self) -> Result<ImageRef> {
        let reference = ImageRef::parse(&self.reference)?;
        if let Some(address) = self.auth.as_ref().and_then(|auth| auth.server_address.as_deref())
            && !reference.belongs_to(address)
        {
            return Err(Error::invalid(
                "image.auth.server_address",
                format!(
                    "the credentials are for {address}, and the image is in {}",
                    reference.registry()
                ),
            ));
        }
        Ok(reference)
    }
}

impl<T: Into<String>> From<T> for Image {
    fn from(reference: T) -> Self {
        Self::new(reference)
    }
}

/// Credentials of a registry. `Debug` prints neither the password nor the token.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryAuth {
    /// Address of the registry, as `host` or `host:port`. `None` means the registry of the image.
    pub server_address: Option<String>,
    /// User name.
    pub username: String,
    password: String,
}

impl RegistryAuth {
    /// Creates credentials from a user name and a password.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { server_address: None, username: username.into(), password: password.into() }
    }

    /// Sets the registry to which the credentials belong.
    #[must_use]
    pub fn server_address(mut self, address: impl Into<String>) -> Self {
        self.server_address = Some(address.into());
        self
    }

    /// Returns the password. For backends, which pass it to their engine.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth")
            .field("server_address", &self.server_address)
            .field("username", &self.username)
            .field("password", &"***")
            .finish()
    }
}

/// Policy that decides if an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// Pull even if the image is present.
    Always,
    /// Pull if the image is missing. A present image is not updated.
    #[default]
    Missing,
    /// Do not pull: a missing image is `ImageNotFound`.
    Never,
}

impl fmt::Display for PullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Missing => "missing",
            Self::Never => "never",
        })
    }
}

impl FromStr for PullPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "always" => Ok(Self::Always),
            "missing" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            _ => Err(Error::invalid(
                "policy",
                format!("{text:?} is not one of always, missing, never"),
            )),
        }
    }
}

/// Progress of a pull. The stream ends after [`PullEvent::Done`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PullEvent {
    /// The image was present and the policy did not require a pull. `Done` follows.
    AlreadyPresent,
    /// Progress of one layer. `current` never decreases for a layer and finally equals `total`.
    Layer {
        /// The engine's id of the layer.
        id: String,
        /// Bytes received so far.
        current: u64,
        /// Size in bytes. `None` until the engine reports it.
        total: Option<u64>,
    },
    /// A layer is complete.
    LayerDone {
        /// The engine's id of the layer.
        id: String,
    },
    /// A human-readable message of the engine.
    Message {
        /// Text of the message.
        text: String,
    },
    /// The image is present.
    Done(PullSummary),
}

/// Result of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PullSummary {
    /// The requested reference, normalised.
    pub requested: String,
    /// The reference with its digest, if the engine reports one.
    pub resolved: Option<String>,
    /// The engine's image id.
    pub id: Option<String>,
}

impl PullSummary {
    /// Creates the summary of a pull of `requested`.
    #[must_use]
    pub fn new(requested: impl Into<String>) -> Self {
        Self { requested: requested.into(), resolved: None, id: None }
    }
}

/// A normalised image reference: `docker.io/library/busybox:latest` for `busybox`.
///
/// The rules are those of the `distribution` reference grammar, as Docker, containerd and
/// Kubernetes apply it. A first component with a dot or a colon, or equal to `localhost`, is a
/// registry; otherwise the registry is `docker.io`. A single-component name on `docker.io` is in
/// `library/`. Without a tag and a digest, the tag is `latest`. An id of 64 hex digits, with or
/// without `sha256:`, refers to an image that the engine already has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

const DOCKER_HUB: &str = "docker.io";

impl ImageRef {
    /// Parses a reference.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field `image`, with the reason in the message.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid("image", format!("{text:?}: {why}"));
        if text.is_empty() {
            return Err(bad("is empty"));
        }
        if let Some(id) = image_id(text) {
            return Ok(Self {
                registry: String::new(),
                repository: String::new(),
                tag: None,
                digest: Some(id),
            });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(bad("the digest is not sha256: and 64, or sha512: and 128, hex digits"));
        }
        // A colon after the last slash begins the tag; an earlier colon is part of the registry.
        let (name, tag) = match rest.rfind(':') {
            Some(colon) if !rest[colon..].contains('/') => {
                (&rest[..colon], Some(&rest[colon + 1..]))
            }
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("the tag is not 1 to 128 letters, digits, '_', '.' or '-'"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.chars().any(|c| c.is_ascii_uppercase()) =>
            {
                if !is_registry(first) {
                    return Err(bad("the registry is not a host name with or without a port"));
                }
                (if first == "index.docker.io" { DOCKER_HUB } else { first }, path)
            }
            _ => (DOCKER_HUB, name),
        };
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(bad("the repository must be in lower case"));
        }
        if path.is_empty() || !path.split('/').all(is_path_part) {
            return Err(bad(
                "the repository is not lower case words joined by '.', '_', '-' and '/'",
            ));
        }
        let repository = if registry == DOCKER_HUB && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if registry.len() + 1 + repository.len() > 255 {
            return Err(bad("the name is longer than 255 characters"));
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest: digest.map(str::to_owned),
        })
    }

    /// Returns `true` if the image belongs to the registry at `address`, which may contain a scheme
    /// and a path, as in Docker's configuration. An image id belongs to every registry, because it
    /// is not pulled.
    fn belongs_to(&self, address: &str) -> bool {
        const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
        let bare = ["https://", "http://"].iter().find_map(|scheme| address.strip_prefix(scheme));
        let host = bare.unwrap_or(address).split('/').next().unwrap_or_default();
        let is_hub = |host: &str| HUB.contains(&host);
        self.registry.is_empty()
            || host == self.registry
            || (is_hub(host) && is_hub(&self.registry))
    }

    /// Returns the registry, with its port if it has one. Empty for an image id.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository in the registry. Empty for an image id.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, or the id with `sha256:` for an image id.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Returns `true` if the reference is the id of an image on the engine. That image cannot be
    /// pulled.
    #[must_use]
    pub fn is_id(&self) -> bool {
        self.repository.is_empty()
    }

    /// Returns the name without tag and digest: `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_id() {
            return f.write_str(self.digest.as_deref().unwrap_or_default());
        }
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn image_id(text: &str) -> Option<String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    (hex.len() == 64 && is_lower_hex(hex)).then(|| format!("sha256:{hex}"))
}

fn is_digest(digest: &str) -> bool {
    match digest.split_once(':') {
        Some(("sha256", hex)) => hex.len() == 64 && is_lower_hex(hex),
        Some(("sha512", hex)) => hex.len() == 128 && is_lower_hex(hex),
        _ => false,
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) if v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') => {
                (None, port)
            }
            _ => return false,
        },
        None => match registry.find(':') {
            Some(colon) => (Some(&registry[..colon]), &registry[colon..]),
            None => (Some(registry), ""),
        },
    };
    let host_is_good = host.is_none_or(|host| {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    });
    let port_is_good = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| {
            !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
                && port.parse::<u16>().is_ok()
        });
    host_is_good && port_is_good
}

/// Returns `true` for lower-case letters and digits, separated by a single `.`, one or two `_`, or
/// any number of `-`.
fn is_path_part(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes.split(|&b| alphanumeric(b)).filter(|separator| !separator.is_empty()).all(|separator| {
        matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn parse_short_reference_returns_full_reference() {
        let sha = "a".repeat(64);
        for (given, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("bitnami/redis", "docker.io/bitnami/redis:latest".to_owned()),
            ("index.docker.io/redis", "docker.io/library/redis:latest".to_owned()),
            ("quay.io/a/b/c:x", "quay.io/a/b/c:x".to_owned()),
            ("127.0.0.1:5000/t", "127.0.0.1:5000/t:latest".to_owned()),
            ("localhost/t", "localhost/t:latest".to_owned()),
            ("localhost:5000/a-b__c.d", "localhost:5000/a-b__c.d:latest".to_owned()),
            ("[::1]:5000/t", "[::1]:5000/t:latest".to_owned()),
            (&format!("r.io/t@sha256:{sha}"), format!("r.io/t@sha256:{sha}")),
            (&format!("r.io/t:1@sha256:{sha}"), format!("r.io/t:1@sha256:{sha}")),
            (&sha, format!("sha256:{sha}")),
            (&format!("sha256:{sha}"), format!("sha256:{sha}")),
        ] {
            let reference = ImageRef::parse(given).unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(ImageRef::parse(&full).unwrap(), reference, "{full} is its own full form");
        }
        assert!(ImageRef::parse(&sha).unwrap().is_id());
    }

    #[test]
    fn parse_invalid_reference_returns_invalid_argument() {
        for bad in [
            "",
            " ",
            ":",
            "a:",
            ":a",
            "a@",
            "@",
            "a/",
            "/a",
            "a//b",
            "A",
            "r.io/A",
            "a b",
            "a\0",
            "a:b c",
            "a:.b",
            "a@sha256:12",
            "a@md5:aa",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "r.io:x/a",
            "r.io:99999/a",
            "r_.io/a",
            "ä",
            "https://r.io/a",
            "a:1:2",
        ] {
            let error = ImageRef::parse(bad).unwrap_err();
            assert_eq!(
                (error.kind(), error.field()),
                (ErrorKind::InvalidArgument, Some("image")),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn debug_of_auth_hides_password() {
        let auth = RegistryAuth::new("ada", "hunter2").server_address("r.io");
        let image = Image::new("r.io/a").auth(auth);
        assert!(!format!("{image:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&image).unwrap().contains("hunter2"));
    }

    #[test]
    fn resolve_with_auth_of_other_registry_returns_invalid_argument() {
        let image = |reference: &str, address: &str| {
            let auth = RegistryAuth::new("ada", "hunter2").server_address(address);
            Image::new(reference).auth(auth).resolve()
        };
        for (reference, address) in [
            ("r.io/a", "r.io"),
            ("r.io:5000/a", "http://r.io:5000/v2/"),
            ("busybox", "https://index.docker.io/v1/"),
            ("busybox", "docker.io"),
        ] {
            assert!(image(reference, address).is_ok(), "{reference} {address}");
        }
        for (reference, address) in
            [("r.io/a", "other.io"), ("r.io:5000/a", "r.io"), ("busybox", "r.io"), ("r.io/a", "")]
        {
            let error = image(reference, address).unwrap_err();
            assert_eq!(error.field(), Some("image.auth.server_address"), "{reference} {address}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        assert!(Image::new("busybox").resolve().is_ok());
    }

    proptest::proptest! {
        #[test]
        fn parse_never_panics_and_is_idempotent(text in "\\PC{0,80}") {
            if let Ok(reference) = ImageRef::parse(&text) {
                let full = reference.to_string();
                proptest::prop_assert_eq!(ImageRef::parse(&full).unwrap(), reference);
            }
        }

        #[test]
        fn parse_well_formed_reference_succeeds(
            text in "([a-z0-9]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?/)?[a-z0-9]{1,9}([_-][a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,5}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?"
        ) {
            proptest::prop_assert!(ImageRef::parse(&text).is_ok(), "{}", text);
        }
    }
}
