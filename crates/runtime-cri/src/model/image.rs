//! Images of an engine, and their defaults.

use runtime_core::{ImageRef, Result};
use serde::Deserialize;

use crate::generated as cri;

/// Image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageOnEngine {
    /// Digest of the configuration, with its algorithm.
    pub(crate) id: String,
    /// Id in the form of the engine: CRI-O omits the algorithm.
    pub(crate) engine_id: String,
    /// Name with the digest.
    pub(crate) resolved: Option<String>,
    /// Defaults of the image.
    pub(crate) config: ImageConfig,
}

/// Defaults of an image that this crate uses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImageConfig {
    #[serde(rename = "User", deserialize_with = "or_default")]
    pub(crate) user: String,
    #[serde(rename = "Entrypoint", deserialize_with = "or_default")]
    pub(crate) entrypoint: Vec<String>,
}

/// Verbose information of containerd about an image.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Verbose {
    #[serde(rename = "imageSpec", deserialize_with = "or_default")]
    spec: VerboseSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct VerboseSpec {
    #[serde(deserialize_with = "or_default")]
    config: ImageConfig,
}

/// Reads null as the default, because Go writes absent values as null.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl ImageOnEngine {
    /// Converts an image, with the verbose information if there is any.
    pub(crate) fn new(image: cri::Image, verbose: Option<&str>, wanted: &ImageRef) -> Self {
        let prefix = format!("{}@", wanted.name());
        let resolved = image
            .repo_digests
            .iter()
            .find(|name| name.starts_with(&prefix))
            .or(image.repo_digests.first())
            .cloned();
        let config = verbose
            .and_then(|text| serde_json::from_str::<Verbose>(text).ok())
            .map(|verbose| verbose.spec.config)
            // CRI-O uses other field names, so only the user is known.
            .unwrap_or_else(|| ImageConfig {
                user: image.uid.map_or(image.username, |uid| uid.value.to_string()),
                entrypoint: Vec::new(),
            });
        let engine_id = image.id;
        let id = match engine_id.contains(':') {
            true => engine_id.clone(),
            false => format!("sha256:{engine_id}"),
        };
        Self { id, engine_id, resolved, config }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBOSE: &str = r#"{"chainID":"sha256:x","imageSpec":{"architecture":"amd64",
        "config":{"User":"alice","Entrypoint":["/bin/entry"],"Cmd":null}}}"#;

    #[test]
    fn resolved_has_the_requested_name() {
        let image = cri::Image {
            id: "sha256:1".to_owned(),
            repo_digests: vec!["other.io/a@sha256:2".to_owned(), "r.io/a@sha256:2".to_owned()],
            ..Default::default()
        };
        let find = |name: &str| {
            let wanted = ImageRef::parse(name).unwrap();
            ImageOnEngine::new(image.clone(), Some(VERBOSE), &wanted)
        };
        assert_eq!(find("r.io/a:1").resolved.as_deref(), Some("r.io/a@sha256:2"));
        assert_eq!(find("z.io/a:1").resolved.as_deref(), Some("other.io/a@sha256:2"));
        assert_eq!(find("r.io/a:1").config.user, "alice");
        assert_eq!(find("r.io/a:1").config.entrypoint, ["/bin/entry"]);
    }

    #[test]
    fn id_without_algorithm_gets_one() {
        let wanted = ImageRef::parse("a").unwrap();
        for (engine_id, id) in [("sha256:0a", "sha256:0a"), ("0a", "sha256:0a")] {
            let image = cri::Image { id: engine_id.to_owned(), ..Default::default() };
            let found = ImageOnEngine::new(image, None, &wanted);
            assert_eq!((found.id.as_str(), found.engine_id.as_str()), (id, engine_id));
        }
    }

    #[test]
    fn image_without_configuration_has_empty_defaults() {
        let image = cri::Image { username: "bob".to_owned(), ..Default::default() };
        let wanted = ImageRef::parse("a").unwrap();
        for verbose in [r#"{"imageSpec":{"config":null}}"#, r#"{"imageSpec":{"config":{}}}"#, "{}"]
        {
            let found = ImageOnEngine::new(image.clone(), Some(verbose), &wanted);
            assert_eq!(found.config, ImageConfig::default(), "{verbose}");
        }
        assert_eq!(ImageOnEngine::new(image, None, &wanted).config.user, "bob");
    }
}
