//! Images: what the engine has, and how it gets more.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use runtime_core::{
    Error, ErrorKind, ImageRef, Operation, PullEvent, PullPolicy, PullStream, PullSummary,
    RegistryAuth, Result, ResultExt,
};
use runtime_support::{Credential, LoginsOf, find_credential};
use serde::Deserialize;

use crate::BACKEND;
use crate::generated as cri;
use crate::shared::Shared;

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
    fn new(image: cri::Image, verbose: Option<&str>, wanted: &ImageRef) -> Self {
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

/// The image by this name or id, if the engine has it.
pub(crate) async fn find(
    shared: &Shared,
    operation: Operation,
    reference: &ImageRef,
) -> Result<Option<ImageOnEngine>> {
    let mut image = named(reference);
    if let Some(hex) = image.image.strip_prefix("sha256:").filter(|_| shared.engine.is_crio()) {
        image.image = hex.to_owned();
    }
    let request = cri::ImageStatusRequest { image: Some(image), verbose: true };
    let answer = shared.ask(operation, request).await.about(reference)?;
    let verbose = answer.info.get("info").map(String::as_str);
    Ok(answer.image.map(|image| ImageOnEngine::new(image, verbose, reference)))
}

/// Brings the image by the policy, and gives what the engine then has.
pub(crate) async fn bring(
    shared: &Shared,
    operation: Operation,
    reference: &ImageRef,
    auth: Option<RegistryAuth>,
    policy: PullPolicy,
) -> Result<ImageOnEngine> {
    if policy != PullPolicy::Always {
        if let Some(image) = find(shared, operation, reference).await? {
            return Ok(image);
        }
        check_can_be_pulled(reference, policy)?;
    }
    pull(shared, operation, reference, auth).await
}

/// See [`Runtime::pull_image`](runtime_core::Runtime::pull_image).
pub(crate) async fn pull_stream(
    shared: Arc<Shared>,
    reference: ImageRef,
    auth: Option<RegistryAuth>,
    policy: PullPolicy,
) -> Result<PullStream> {
    let summary = |reference: &ImageRef, image: ImageOnEngine| {
        let mut summary = PullSummary::new(reference.to_string());
        (summary.resolved, summary.id) = (image.resolved, Some(image.id));
        PullEvent::Done(summary)
    };
    if policy != PullPolicy::Always {
        if let Some(image) = find(&shared, Operation::Pull, &reference).await? {
            let events = [PullEvent::AlreadyPresent, summary(&reference, image)];
            return Ok(stream::iter(events.map(Ok)).boxed());
        }
        check_can_be_pulled(&reference, policy)?;
    }
    // The CRI tells nothing between the beginning and the end of a pull.
    let begin = PullEvent::Message { text: format!("pulling {reference}") };
    let end = async move {
        let image = pull(&shared, Operation::Pull, &reference, auth).await?;
        Ok(summary(&reference, image))
    };
    Ok(stream::iter([Ok(begin)]).chain(stream::once(end)).boxed())
}

fn check_can_be_pulled(reference: &ImageRef, policy: PullPolicy) -> Result<()> {
    let why = if policy == PullPolicy::Never {
        "the engine does not have it, and the policy is never"
    } else if reference.is_id() {
        "the engine does not have it, and an image id cannot be pulled"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::ImageNotFound).with_message(why).about(reference))
}

/// The CRI tells nothing before the end, so that a silence cannot be told from a large image on a slow
/// line: the deadline is for the whole. Some engines give up a pull that stands still by themselves,
/// see the documentation of the crate. An engine that is gone is noticed by the connection, and a pull
/// that nobody waits for any more ends.
async fn pull(
    shared: &Shared,
    operation: Operation,
    reference: &ImageRef,
    auth: Option<RegistryAuth>,
) -> Result<ImageOnEngine> {
    let deadline = shared.deadlines.pull_without_progress;
    let whole = pull_patiently(shared, operation, reference, auth);
    tokio::time::timeout(deadline, whole).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Timeout)
            .with_message(format!("it was not pulled within {deadline:?}"))
            .during(operation)
            .on(BACKEND)
            .about(reference))
    })
}

async fn pull_patiently(
    shared: &Shared,
    operation: Operation,
    reference: &ImageRef,
    auth: Option<RegistryAuth>,
) -> Result<ImageOnEngine> {
    if reference.is_id() {
        return Err(Error::invalid("policy", "an image id cannot be pulled").about(reference));
    }
    let auth = find_credential(reference, auth, LoginsOf::Docker).await;
    let with_login = auth.is_some();
    let request = cri::PullImageRequest {
        image: Some(named(reference)),
        auth: auth.map(auth_config),
        sandbox_config: None,
    };
    let pulled = shared.unless_closed(shared.client.ask_patiently(operation, request)).await;
    pulled
        .map_err(|error| ambiguous(error, with_login).during(operation))
        .on(BACKEND)
        .about(reference)?;
    find(shared, operation, reference).await?.ok_or_else(|| {
        Error::new(ErrorKind::ImageNotFound)
            .with_message("it was pulled, and is gone again")
            .during(operation)
            .on(BACKEND)
            .about(reference)
    })
}

/// The login as the engine wants it. Without the registry's address: the login is for the one of
/// the image, and the engine does not have to compare.
fn auth_config(credential: Credential) -> cri::AuthConfig {
    match credential {
        Credential::Login(auth) => cri::AuthConfig {
            password: auth.password().to_owned(),
            username: auth.username,
            ..Default::default()
        },
        Credential::IdentityToken(identity_token) => {
            cri::AuthConfig { identity_token, ..Default::default() }
        }
        Credential::RegistryToken(registry_token) => {
            cri::AuthConfig { registry_token, ..Default::default() }
        }
        _ => cri::AuthConfig::default(),
    }
}

/// Registries answer alike for what is not there and what one may not see.
fn ambiguous(error: Error, with_login: bool) -> Error {
    let text = error.message().unwrap_or_default().to_ascii_lowercase();
    if !text.contains("does not exist or may require authorization")
        && !text.contains("insufficient_scope")
    {
        return error;
    }
    let kind = if with_login { ErrorKind::ImageNotFound } else { ErrorKind::Unauthenticated };
    Error::new(kind).with_message(error.message().unwrap_or_default()).with_source(error)
}

fn named(reference: &ImageRef) -> cri::ImageSpec {
    cri::ImageSpec { image: reference.to_string(), ..Default::default() }
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

    #[test]
    fn what_may_not_be_seen_depends_on_the_login() {
        let words = "pull access denied, repository does not exist or may require authorization";
        let refused = || Error::new(ErrorKind::PermissionDenied).with_message(words);
        assert_eq!(ambiguous(refused(), true).kind(), ErrorKind::ImageNotFound);
        assert_eq!(ambiguous(refused(), false).kind(), ErrorKind::Unauthenticated);
        let other = Error::new(ErrorKind::Unavailable).with_message("connection refused");
        assert_eq!(ambiguous(other, true).kind(), ErrorKind::Unavailable);
    }
}
