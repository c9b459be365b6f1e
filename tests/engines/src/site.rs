//! Directory of a checkout's instances, and locks between processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Environment variable with another directory for the instances.
pub const DIR_VARIABLE: &str = "RUNTIME_TEST_ENV_DIR";

/// Maximum length of a Unix socket path, without the longest name of a socket.
const PATH_LENGTH_MAX: usize = 107 - "/containerd-faults/containerd.sock.ttrpc".len();

/// Directory of instances, by default `target/env` of the checkout.
///
/// Sites share nothing: the names of bridges and control groups are derived from the directory's
/// path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    root: PathBuf,
    tag: String,
}

impl Site {
    /// Returns the site of this checkout, or the directory in [`DIR_VARIABLE`].
    ///
    /// # Errors
    /// If the directory cannot be created, or its path is too long for a Unix socket inside it.
    pub fn of_checkout() -> Result<Self> {
        let root = match std::env::var_os(DIR_VARIABLE) {
            Some(dir) => PathBuf::from(dir),
            None => Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../target/env")
                .components()
                .collect(),
        };
        Self::at(&root)
    }

    /// Returns the site in a given directory.
    ///
    /// # Errors
    /// Same as [`Site::of_checkout`].
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)
            .with_context(|| format!("failed to create the directory {}", root.display()))?;
        let root = root.canonicalize()?;
        anyhow::ensure!(
            root.as_os_str().len() <= PATH_LENGTH_MAX,
            "{} is too long for the Unix sockets in it; set {DIR_VARIABLE} to a shorter path",
            root.display()
        );
        let tag = format!("rt{:04x}", fnv(root.as_os_str().as_encoded_bytes()) & 0xffff);
        Ok(Self { root, tag })
    }

    /// Returns the site's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a short name of the site for the names of host-wide objects.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Returns a constant number of the site, which distributes sites over ports and subnets.
    pub(crate) fn spread(&self) -> u64 {
        fnv(self.tag.as_bytes())
    }

    /// Returns the directory of an instance, which may be missing.
    #[must_use]
    pub fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns a directory that every engine of the site sees at the same path as the host, for
    /// bind mounts.
    ///
    /// # Errors
    /// If the directory cannot be created.
    pub fn shared_dir(&self) -> Result<PathBuf> {
        let dir = self.root.join("shared");
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Waits for the lock with this name.
    pub(crate) fn lock(&self, name: &str) -> Result<Lock> {
        Lock::take(&self.root.join(format!(".{name}.lock")), name)
    }
}

/// Lock between processes. It is released on drop and when its holder dies.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held for its drop")] File);

impl Lock {
    pub(crate) fn take(path: &Path, what: &str) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // The file is not modified, because another process may hold the lock.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("failed to open the lock file {}", path.display()))?;
        if file.try_lock().is_err() {
            crate::log_progress(what, "waiting for another process that works on it");
            file.lock()?;
        }
        Ok(Self(file))
    }
}

/// FNV-1a, because the standard library's hashes may change between releases and names must not.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_have_different_tags() {
        let dir = tempfile::tempdir().unwrap();
        let a = Site::at(&dir.path().join("a")).unwrap();
        let b = Site::at(&dir.path().join("b")).unwrap();
        assert_ne!(a.tag(), b.tag());
        assert_eq!(a, Site::at(&dir.path().join("a")).unwrap());
    }

    #[test]
    fn path_too_long_for_sockets_returns_error() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(PATH_LENGTH_MAX));
        assert!(Site::at(&long).is_err());
    }
}
