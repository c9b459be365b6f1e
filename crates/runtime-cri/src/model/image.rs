//! Images of an engine, and their defaults.

use runtime_core::{ImageRef, Result};
use serde::Deserialize;

use crate::generated as cri;

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageOnEngine {
    /// The digest of its configuration, with its algorithm.
    pub(crate) id: String,
    /// The id as the engine gives and takes it: CRI-O leaves the algorithm out.
    pub(crate) engine_id: String,
    /// Its name with its digest.
    pub(crate) resolved: Option<String>,
    /// Its defaults.
    pub(crate) config: ImageConfig,
}

/// The defaults of an image, as far as we have to know them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImageConfig {
    #[serde(rename = "User", deserialize_with = "or_default")]
    pub(crate) user: String,
    #[serde(rename = "Entrypoint", deserialize_with = "or_default")]
    pub(crate) entrypoint: Vec<String>,
}

/// What containerd tells of an image when asked to be verbose.
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

/// Go writes what is absent as null.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl ImageOnEngine {
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
            // Less than the whole: CRI-O names its fields otherwise.
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
    fn the_digest_is_that_of_the_name_that_was_asked_for() {
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
    fn id_without_algorithm_is_a_digest_here_and_stays_for_the_engine() {
        let wanted = ImageRef::parse("a").unwrap();
        for (engine_id, id) in [("sha256:0a", "sha256:0a"), ("0a", "sha256:0a")] {
            let image = cri::Image { id: engine_id.to_owned(), ..Default::default() };
            let found = ImageOnEngine::new(image, None, &wanted);
            assert_eq!((found.id.as_str(), found.engine_id.as_str()), (id, engine_id));
        }
    }

    #[test]
    fn an_image_without_defaults_has_none() {
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
