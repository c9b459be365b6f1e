//! Images of the test registry.

use runtime_conformance::{BoxError, Images, Registry};
use runtime_core::{ContainerSpec, Image, RegistryAuth};
use test_engines::Site;

/// Pushes an image to the registry of this checkout, see
/// [`Subject::push_image`](runtime_conformance::Subject::push_image).
///
/// # Errors
/// If the registry refuses the image.
pub async fn push_image(name: &str) -> Result<String, BoxError> {
    let (repository, tag) = name.split_once(':').ok_or("a name without a tag")?;
    let (repository, tag) = (repository.to_owned(), tag.to_owned());
    let pushed = tokio::task::spawn_blocking(move || {
        test_engines::push_unique_image(&Site::of_checkout()?, &repository, &tag)
    });
    Ok(pushed.await??)
}

/// Returns a spec with the registry's busybox.
#[must_use]
pub fn busybox(registry: &Registry) -> ContainerSpec {
    let image = Image::new(Images::of_registry(&registry.address).busybox);
    ContainerSpec::new(image.auth(RegistryAuth::new(&registry.username, &registry.password)))
}
