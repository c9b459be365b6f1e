//! The engine and the registry of the environment: the variables that `cargo xtask env up` prints.
//!
//! A missing variable is an error, because a test that needs an engine fails without one.

use std::path::PathBuf;

use runtime_conformance::Registry;

/// Returns the value of a variable.
///
/// # Errors
/// If the variable is missing.
pub fn variable(name: &str) -> Result<String, String> {
    std::env::var(name)
        .map_err(|_| format!("{name} is not set: see `cargo xtask test`, or `cargo xtask env up`"))
}

/// Returns the name of the engine: `docker`, `podman`, `containerd-17`.
///
/// # Errors
/// If the variable is missing.
pub fn engine() -> Result<String, String> {
    variable("RUNTIME_TEST_ENGINE")
}

/// Returns the registry and its credentials.
///
/// # Errors
/// If a variable is missing.
pub fn registry() -> Result<Registry, String> {
    Ok(Registry::new(
        variable("RUNTIME_TEST_REGISTRY")?,
        variable("RUNTIME_TEST_REGISTRY_USER")?,
        variable("RUNTIME_TEST_REGISTRY_PASSWORD")?,
    ))
}

/// Returns the directory that the engine sees at the same path.
///
/// # Errors
/// If the variable is missing.
pub fn shared_dir() -> Result<PathBuf, String> {
    variable("RUNTIME_TEST_SHARED_DIR").map(PathBuf::from)
}

/// Returns true if this process can read the kernel log of the host.
#[must_use]
pub fn may_read_kernel_log() -> bool {
    std::fs::File::open("/dev/kmsg").is_ok()
}
