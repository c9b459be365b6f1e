//! What a backend brings.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use runtime_core::{Runtime, Scope, async_trait};

use crate::CaseFn;

/// Any error of the test environment.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An engine under test, and what the cases need around it.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// The engine's name in the report: `docker`, `podman`, `containerd-1.6`.
    fn engine(&self) -> String;

    /// A new connection of its own, which shares nothing with earlier ones.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    async fn connect(&self, scope: &Scope) -> runtime_core::Result<Arc<dyn Runtime>>;

    /// The images that the cases run.
    fn images(&self) -> Images;

    /// The registry that has them.
    fn registry(&self) -> Registry;

    /// Pushes an image to the registry whose content no engine has yet, as `name` in the form
    /// `repository:tag`, in place of an image that has that name. It can do what
    /// [`Images::busybox`] can. Gives the full reference.
    ///
    /// # Errors
    /// When the registry refuses it.
    async fn push_image(&self, name: &str) -> Result<String, BoxError>;

    /// Removes an image from the engine, so that the next pull has to bring it. `false` when the
    /// engine cannot be asked for that; an image that is in use or not there is left alone.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    async fn forget_image(&self, reference: &str) -> Result<bool, BoxError>;

    /// A folder that the engine sees at the same path as this process, for the sources of mounts.
    /// It may be left out where the engine has not the capability `mounts`.
    fn shared_dir(&self) -> Option<PathBuf>;

    /// The address at which published ports can be reached from this process.
    fn published_address(&self) -> IpAddr;

    /// Everything at the engine that belongs to `scope`, by the engine's own listing and not by
    /// the backend under test: containers, sandboxes, Secrets. One line each.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    async fn leftovers(&self, scope: &Scope) -> Result<Vec<String>, BoxError>;

    /// How to kill the engine and start it again. Without it the cases that do so are reported as
    /// ignored for want of `engine_control`.
    fn control(&self) -> Option<&dyn EngineControl>;

    /// How to see GPUs. It must be there where the engine has a GPU capability.
    fn gpus(&self) -> Option<GpuProof> {
        None
    }

    /// Whether every end out of memory is told, and not only those of which the engine has had the
    /// kernel's signal: the backend reads the log of this host's kernel, and is allowed to.
    fn tells_every_oom(&self) -> bool {
        false
    }

    /// How many cases may run at once, unless `--test-threads` says so.
    fn parallelism(&self) -> usize {
        4
    }

    /// What no log may have, besides what a case makes up: passwords and tokens.
    fn secrets(&self) -> Vec<String> {
        vec![self.registry().password]
    }

    /// The differences of this engine that are known, documented and asserted.
    fn differences(&self) -> Vec<Difference> {
        Vec::new()
    }
}

/// Kills the engine and brings it back.
#[async_trait]
pub trait EngineControl: Send + Sync {
    /// Kills the engine's daemon as a crash would. Its containers go on.
    ///
    /// # Errors
    /// When it cannot be killed.
    async fn kill(&self) -> Result<(), BoxError>;

    /// Starts it again, and returns when it answers.
    ///
    /// # Errors
    /// When it does not come back.
    async fn start(&self) -> Result<(), BoxError>;
}

/// Full references of the images that the cases run, all in [`Subject::registry`] and readable
/// with its login only.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Images {
    /// Busybox with all its applets in `PATH`, `CMD ["sh"]`, the user `root`, the user `alice`
    /// with uid and gid 1000, and the group `video` with gid 44.
    pub busybox: String,
    /// Made on busybox: `ENTRYPOINT ["/bin/entry"]`, a script that prints `entry` and its
    /// arguments; `CMD ["default-argument"]`, `ENV FROM_IMAGE=yes`, `WORKDIR /srv`,
    /// `USER alice`, `LABEL image.label=...`.
    pub entry: String,
    /// Busybox with `USER 1234:5678`, neither of which has a name.
    pub grouped: String,
    /// Made on busybox, with several layers of some MiB each.
    pub layers: String,
}

impl Images {
    /// The images `test/busybox:1`, `test/entry:1`, `test/grouped:1` and `test/layers:1` of `registry`.
    #[must_use]
    pub fn of_registry(registry: &str) -> Self {
        let image = |name| format!("{registry}/test/{name}:1");
        Self {
            busybox: image("busybox"),
            entry: image("entry"),
            grouped: image("grouped"),
            layers: image("layers"),
        }
    }
}

/// A registry that asks for a login.
#[derive(Clone)]
#[non_exhaustive]
pub struct Registry {
    /// `host:port`, as it stands at the beginning of a reference.
    pub address: String,
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl Registry {
    /// A registry and its login.
    #[must_use]
    pub fn new(
        address: impl Into<String>,
        username: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        Self { address: address.into(), username: username.into(), password: password.into() }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("address", &self.address)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A device that stands for GPUs, real or made up.
#[derive(Debug, Clone)]
pub struct GpuProof {
    /// The ids of the devices, at least one.
    pub ids: Vec<String>,
    /// A shell command that ends with 0 in a container that has one of them, and with something
    /// else in one that has none.
    pub command: String,
}

/// A case that this engine does not pass for a known reason, and what it does in its place.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The name of the case.
    pub case: &'static str,
    /// Why the engine differs, a sentence.
    pub reason: &'static str,
    /// Runs in place of the case and asserts what the engine does.
    pub instead: CaseFn,
}

impl Difference {
    /// containerd's, with which Kubernetes has it as well.
    #[must_use]
    pub fn adds_groups_of_the_image() -> Self {
        Self {
            case: "fields::groups_of_user_and_group",
            reason: "containerd adds the groups that the image's /etc/group gives the user",
            instead: |t| Box::pin(crate::cases::fields::groups_of_the_image_as_well(t)),
        }
    }
}
