//! See [`Runtime::pull_image`](runtime_core::Runtime::pull_image), and the pull of a create.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use runtime_core::{
    Error, ErrorKind, ImageRef, Operation, PullEvent, PullPolicy, PullStream, PullSummary,
    RegistryAuth, Result, ResultExt,
};
use runtime_support::{Credential, LoginsOf, find_credential};

use crate::BACKEND;
use crate::generated as cri;
use crate::model::image::ImageOnEngine;
use crate::state::connection::Connection;

/// The image by this name or id, if the engine has it.
async fn find(
    connection: &Connection,
    operation: Operation,
    reference: &ImageRef,
) -> Result<Option<ImageOnEngine>> {
    let mut image = named(reference);
    if let Some(hex) = image.image.strip_prefix("sha256:").filter(|_| connection.engine.is_crio()) {
        image.image = hex.to_owned();
    }
    let request = cri::ImageStatusRequest { image: Some(image), verbose: true };
    let answer = connection.call(operation, request).await.about(reference)?;
    let verbose = answer.info.get("info").map(String::as_str);
    Ok(answer.image.map(|image| ImageOnEngine::new(image, verbose, reference)))
}

/// Brings the image by the policy, and gives what the engine then has.
pub(crate) async fn bring(
    connection: &Connection,
    operation: Operation,
    reference: &ImageRef,
    auth: Option<RegistryAuth>,
    policy: PullPolicy,
) -> Result<ImageOnEngine> {
    if policy != PullPolicy::Always {
        if let Some(image) = find(connection, operation, reference).await? {
            return Ok(image);
        }
        check_can_be_pulled(reference, policy)?;
    }
    pull(connection, operation, reference, auth).await
}

/// See [`Runtime::pull_image`](runtime_core::Runtime::pull_image).
pub(crate) async fn pull_stream(
    connection: Arc<Connection>,
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
        if let Some(image) = find(&connection, Operation::Pull, &reference).await? {
            let events = [PullEvent::AlreadyPresent, summary(&reference, image)];
            return Ok(stream::iter(events.map(Ok)).boxed());
        }
        check_can_be_pulled(&reference, policy)?;
    }
    // The CRI tells nothing between the beginning and the end of a pull.
    let begin = PullEvent::Message { text: format!("pulling {reference}") };
    let end = async move {
        let image = pull(&connection, Operation::Pull, &reference, auth).await?;
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
    connection: &Connection,
    operation: Operation,
    reference: &ImageRef,
    auth: Option<RegistryAuth>,
) -> Result<ImageOnEngine> {
    let deadline = connection.context.deadlines.pull_without_progress;
    let whole = pull_patiently(connection, operation, reference, auth);
    tokio::time::timeout(deadline, whole).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Timeout)
            .with_message(format!("it was not pulled within {deadline:?}"))
            .during(operation)
            .on(BACKEND)
            .about(reference))
    })
}

async fn pull_patiently(
    connection: &Connection,
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
    let pulled = connection
        .context
        .unless_closed(connection.client.call_without_deadline(operation, request))
        .await;
    pulled
        .map_err(|error| ambiguous(error, with_login).during(operation))
        .on(BACKEND)
        .about(reference)?;
    find(connection, operation, reference).await?.ok_or_else(|| {
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
