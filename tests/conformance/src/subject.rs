//! Interface between a backend and the suite.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use runtime_core::{Runtime, Scope, async_trait};

use crate::CaseFn;

/// Any error of the test environment.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Engine under test and its test environment.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// Returns the engine's name in the report: `docker`, `podman`, `containerd-1.6`.
    fn engine(&self) -> String;

    /// Opens a new connection that shares nothing with earlier ones.
    ///
    /// # Errors
    /// If the engine cannot be reached.
    async fn connect(&self, scope: &Scope) -> runtime_core::Result<Arc<dyn Runtime>>;

    /// Returns the images that the cases run.
    fn images(&self) -> Images;

    /// Returns the registry of the images.
    fn registry(&self) -> Registry;

    /// Pushes an image with new content to the registry as `name`, in the form `repository:tag`, and replaces
    /// an existing image of that name. The image has the programs of [`Images::busybox`]. Returns the full
    /// reference.
    ///
    /// # Errors
    /// If the registry refuses the push.
    async fn push_image(&self, name: &str) -> Result<String, BoxError>;

    /// Removes an image from the engine, so that the next pull downloads it. Returns `false` if the engine
    /// has no request for that. An image that is in use or absent is left alone.
    ///
    /// # Errors
    /// If the engine cannot be reached.
    async fn forget_image(&self, reference: &str) -> Result<bool, BoxError>;

    /// Returns a directory that the engine sees at the same path as this process, for the sources of mounts.
    /// `None` is allowed if the engine lacks the capability `mounts`.
    fn shared_dir(&self) -> Option<PathBuf>;

    /// Returns the address at which this process reaches published ports.
    fn published_address(&self) -> IpAddr;

    /// Lists everything at the engine that belongs to `scope`, by the engine's own listing and not by the
    /// backend under test: containers, sandboxes, Secrets. One line each.
    ///
    /// # Errors
    /// If the engine cannot be reached.
    async fn leftovers(&self, scope: &Scope) -> Result<Vec<String>, BoxError>;

    /// Returns the control that kills and restarts the engine. If `None`, the cases that need it are reported
    /// as ignored because of `engine_control`.
    fn control(&self) -> Option<&dyn EngineControl>;

    /// Returns the check for GPUs. It is required if the engine has a GPU capability.
    fn gpus(&self) -> Option<GpuProof> {
        None
    }

    /// Returns `true` if every out-of-memory exit is reported, and not only those for which the engine has
    /// received the kernel's event: the backend reads the kernel log of this host and has permission to.
    fn tells_every_oom(&self) -> bool {
        false
    }

    /// Returns the number of cases that run at once, unless `--test-threads` is given.
    fn parallelism(&self) -> usize {
        4
    }

    /// Returns the secrets that no log may contain, besides those that a case generates: passwords and
    /// tokens.
    fn secrets(&self) -> Vec<String> {
        vec![self.registry().password]
    }

    /// Returns the known differences of this engine, which are documented and asserted.
    fn differences(&self) -> Vec<Difference> {
        Vec::new()
    }
}

/// Control that kills and restarts the engine.
#[async_trait]
pub trait EngineControl: Send + Sync {
    /// Kills the engine's daemon like a crash. Its containers continue to run.
    ///
    /// # Errors
    /// If the daemon cannot be killed.
    async fn kill(&self) -> Result<(), BoxError>;

    /// Starts the engine again, and returns when it answers.
    ///
    /// # Errors
    /// If the engine does not answer.
    async fn start(&self) -> Result<(), BoxError>;
}

/// Full references of the images that the cases run, all in [`Subject::registry`] and readable only with its
/// login.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Images {
    /// Busybox with all its applets in `PATH`, `CMD ["sh"]`, the user `root`, the user `alice` with uid and
    /// gid 1000, and the group `video` with gid 44.
    pub busybox: String,
    /// Image based on busybox: `ENTRYPOINT ["/bin/entry"]`, a script that prints `entry` and its arguments;
    /// `CMD ["default-argument"]`, `ENV FROM_IMAGE=yes`, `WORKDIR /srv`, `USER alice`,
    /// `LABEL image.label=...`.
    pub entry: String,
    /// Busybox with `USER 1234:5678`, neither of which has a name.
    pub grouped: String,
    /// Image based on busybox, with several layers of some MiB each.
    pub layers: String,
}

impl Images {
    /// Returns the images `test/busybox:1`, `test/entry:1`, `test/grouped:1` and `test/layers:1` of
    /// `registry`.
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

/// Registry that requires a login.
#[derive(Clone)]
#[non_exhaustive]
pub struct Registry {
    /// `host:port`, as in the first part of a reference.
    pub address: String,
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl Registry {
    /// Creates a registry with its login.
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

/// Device that represents GPUs, real or emulated.
#[derive(Debug, Clone)]
pub struct GpuProof {
    /// Ids of the devices, at least one.
    pub ids: Vec<String>,
    /// Shell command that exits with 0 in a container that has one of the devices, and with another code in a
    /// container without a device.
    pub command: String,
}

/// Case that this engine does not pass for a known reason, and its replacement.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Name of the case.
    pub case: &'static str,
    /// Reason for the difference, as a sentence.
    pub reason: &'static str,
    /// Runs in place of the case and asserts the behavior of the engine.
    pub instead: CaseFn,
}

impl Difference {
    /// Returns the difference of containerd, which Kubernetes on containerd has as well.
    #[must_use]
    pub fn adds_groups_of_the_image() -> Self {
        Self {
            case: "fields::groups_of_user_and_group",
            reason: "containerd adds the groups that the image's /etc/group gives the user",
            instead: |t| Box::pin(crate::cases::fields::groups_of_the_image_as_well(t)),
        }
    }
}
