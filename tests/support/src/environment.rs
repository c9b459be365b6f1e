//! The engine and the registry of the environment: the variables that `cargo xtask env up` prints.
//!
//! Each is an error, in words, when its variable is missing: a test of an engine fails where there
//! is none.

use std::path::PathBuf;

use runtime_conformance::Registry;

/// The value of a variable.
///
/// # Errors
/// When it is missing.
pub fn variable(name: &str) -> Result<String, String> {
    std::env::var(name)
        .map_err(|_| format!("{name} is not set: see `cargo xtask test`, or `cargo xtask env up`"))
}

/// The name of the engine: `docker`, `podman`, `containerd-17`.
///
/// # Errors
/// When it is missing.
pub fn engine() -> Result<String, String> {
    variable("RUNTIME_TEST_ENGINE")
}

/// The registry and its login.
///
/// # Errors
/// When a variable is missing.
pub fn registry() -> Result<Registry, String> {
    Ok(Registry::new(
        variable("RUNTIME_TEST_REGISTRY")?,
        variable("RUNTIME_TEST_REGISTRY_USER")?,
        variable("RUNTIME_TEST_REGISTRY_PASSWORD")?,
    ))
}

/// The folder that the engine sees at the same path.
///
/// # Errors
/// When it is missing.
pub fn shared_dir() -> Result<PathBuf, String> {
    variable("RUNTIME_TEST_SHARED_DIR").map(PathBuf::from)
}

/// Whether this process may read the log of this host's kernel.
#[must_use]
pub fn may_read_kernel_log() -> bool {
    std::fs::File::open("/dev/kmsg").is_ok()
}
