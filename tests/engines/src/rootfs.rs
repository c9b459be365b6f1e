//! Whole Debian systems of other releases, unpacked once and kept outside the checkout.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::process::output;
use crate::site::Lock;
use crate::{mirror, packages};

/// The environment variable that moves the unpacked systems to another folder.
pub const CACHE_VARIABLE: &str = "RUNTIME_TEST_ENGINES_CACHE";

/// The packages of a system beside the base of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Docker and containerd.
    Docker,
    /// Podman: apart from the others, because its package replaces some of their configuration.
    Podman,
}

impl Content {
    fn packages(self) -> &'static str {
        match self {
            Self::Docker => "docker.io,containerd,runc,iptables,containernetworking-plugins",
            // Without names of their own, debootstrap takes the first of several alternatives.
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

/// Where things are kept that take long to get and do not depend on the checkout.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(CACHE_VARIABLE) {
        return Ok(PathBuf::from(dir));
    }
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let home = std::env::home_dir().context("there is no home folder for a cache")?;
            home.join(".cache")
        }
    };
    Ok(base.join("runtime-test-engines"))
}

/// The directory of the system of this release.
pub(crate) fn path(suite: &str, content: Content) -> Result<PathBuf> {
    Ok(cache()?.join(content.directory(suite)))
}

/// Makes sure that the system is there.
pub(crate) fn ensure(who: &str, suite: &str, content: Content) -> Result<PathBuf> {
    let root = path(suite, content)?;
    if root.exists() {
        return Ok(root);
    }
    let _lock = Lock::take(&cache()?.join(format!(".{}.lock", content.directory(suite))), who)?;
    if root.exists() {
        return Ok(root);
    }
    packages::ensure(who, &["debootstrap"])?;
    let mirror = mirror::debian_mirror()?;
    let start = Instant::now();
    crate::say(who, &format!("unpacking Debian {suite} from {mirror}, about half a minute"));
    let draft = root.with_extension("draft");
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    // In a namespace of its own: what debootstrap mounts goes even if it is killed.
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
    crate::say(who, &format!("unpacked ({:.0?})", start.elapsed()));
    Ok(root)
}
