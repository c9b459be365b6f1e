//! Debian systems of other releases, unpacked once and cached outside of the checkout.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::process::output;
use crate::site::Lock;
use crate::{mirror, packages};

/// Environment variable with another directory for the unpacked systems.
pub const CACHE_VARIABLE: &str = "RUNTIME_TEST_ENGINES_CACHE";

/// Additional packages of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Docker and containerd.
    Docker,
    /// Podman: separate, because its package replaces configuration of the others.
    Podman,
}

impl Content {
    fn packages(self) -> &'static str {
        match self {
            Self::Docker => "docker.io,containerd,runc,iptables,containernetworking-plugins",
            // Without explicit names, debootstrap selects the first of several alternatives.
            Self::Podman => "podman,conmon,runc,crun,netavark,nftables,iproute2",
        }
    }

    /// The directory in the cache.
    fn directory(self, suite: &str) -> String {
        match self {
            Self::Docker => suite.to_owned(),
            Self::Podman => format!("{suite}-podman"),
        }
    }
}

/// Returns the directory for cached files that take long to create and do not depend on the
/// checkout.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(CACHE_VARIABLE) {
        return Ok(PathBuf::from(dir));
    }
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let home = std::env::home_dir().context("no home directory for the cache")?;
            home.join(".cache")
        }
    };
    Ok(base.join("runtime-test-engines"))
}

/// Returns the directory of this release's system.
pub(crate) fn path(suite: &str, content: Content) -> Result<PathBuf> {
    Ok(cache()?.join(content.directory(suite)))
}

/// Unpacks the system if it is missing.
pub(crate) fn ensure(label: &str, suite: &str, content: Content) -> Result<PathBuf> {
    let root = path(suite, content)?;
    if root.exists() {
        return Ok(root);
    }
    let _lock = Lock::take(&cache()?.join(format!(".{}.lock", content.directory(suite))), label)?;
    if root.exists() {
        return Ok(root);
    }
    packages::ensure(label, &["debootstrap"])?;
    let mirror = mirror::debian_mirror()?;
    let start = Instant::now();
    crate::log_progress(
        label,
        &format!("unpacking Debian {suite} from {mirror}, about half a minute"),
    );
    let draft = root.with_extension("draft");
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    // In a mount namespace, so that debootstrap's mounts are removed even if it is killed.
    let done = output(
        Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "debootstrap"])
            .arg("--variant=minbase")
            .arg(format!("--include={}", content.packages()))
            .arg(suite)
            .arg(&draft)
            .arg(&mirror)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    );
    done.with_context(|| {
        let log = draft.join("debootstrap/debootstrap.log");
        format!("debootstrap {suite}: {}", crate::keeper::tail(&log))
    })?;
    for entry in fs::read_dir(draft.join("var/cache/apt/archives"))?.flatten() {
        if entry.path().extension().is_some_and(|e| e == "deb") {
            fs::remove_file(entry.path())?;
        }
    }
    fs::rename(&draft, &root)?;
    crate::log_progress(label, &format!("unpacked ({:.0?})", start.elapsed()));
    Ok(root)
}
