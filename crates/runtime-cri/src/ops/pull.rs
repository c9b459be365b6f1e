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

/// Returns the image with this name or id, if the engine has it.
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
    let response = connection.call(operation, request).await.about(reference)?;
    let verbose = response.info.get("info").map(String::as_str);
    Ok(response.image.map(|image| ImageOnEngine::new(image, verbose, reference)))
}

/// Pulls an image according to the policy, and returns it.
pub(crate) async fn ensure(
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

/// Pulls an image according to the policy, and reports the progress.
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
    // The CRI reports nothing between the beginning and the end of a pull.
    let begin = PullEvent::Message { text: format!("pulling {reference}") };
    let end = async move {
        let pulled = pull(&connection, Operation::Pull, &reference, auth).await;
        let image = pulled.during(Operation::Pull).on(BACKEND)?;
        Ok(summary(&reference, image))
    };
    Ok(stream::iter([Ok(begin)]).chain(stream::once(end)).boxed())
}

fn check_can_be_pulled(reference: &ImageRef, policy: PullPolicy) -> Result<()> {
    let why = if policy == PullPolicy::Never {
        "the engine does not have the image, and the policy is never"
    } else if reference.is_id() {
        "the engine does not have the image, and an image id cannot be pulled"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::ImageNotFound).with_message(why).about(reference))
}

/// Pulls an image. The deadline covers the whole pull, because the CRI reports no progress, so that
/// a stalled pull looks like a large image. Some engines abort a stalled pull, see the
/// documentation of the crate. A dropped future cancels the pull.
async fn pull(
    connection: &Connection,
    operation: Operation,
    reference: &ImageRef,
    auth: Option<RegistryAuth>,
) -> Result<ImageOnEngine> {
    let deadline = connection.context.deadlines.pull_without_progress;
    let pulled = pull_without_deadline(connection, operation, reference, auth);
    tokio::time::timeout(deadline, pulled).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Timeout)
            .with_message(format!("the pull did not end within {deadline:?}"))
            .about(reference))
    })
}

async fn pull_without_deadline(
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
    pulled.map_err(|error| map_ambiguous(error, with_login)).about(reference)?;
    find(connection, operation, reference).await?.ok_or_else(|| {
        Error::new(ErrorKind::ImageNotFound)
            .with_message("the image was removed after the pull")
            .about(reference)
    })
}

/// Converts a credential. The address of the registry is omitted, so that the engine does not
/// compare it with that of the image.
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

/// Maps the error that registries send for both missing and forbidden images.
fn map_ambiguous(error: Error, with_login: bool) -> Error {
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
    fn ambiguous_error_depends_on_the_login() {
        let message = "pull access denied, repository does not exist or may require authorization";
        let refused = || Error::new(ErrorKind::PermissionDenied).with_message(message);
        assert_eq!(map_ambiguous(refused(), true).kind(), ErrorKind::ImageNotFound);
        assert_eq!(map_ambiguous(refused(), false).kind(), ErrorKind::Unauthenticated);
        let other = Error::new(ErrorKind::Unavailable).with_message("connection refused");
        assert_eq!(map_ambiguous(other, true).kind(), ErrorKind::Unavailable);
    }
}
