//! Where the instances of one checkout live, and the locks that keep two processes apart.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The environment variable that moves every instance to another folder.
pub const DIR_VARIABLE: &str = "RUNTIME_TEST_ENV_DIR";

/// The longest path that a Unix socket may have, less the longest name that we give one.
const LONGEST_SITE: usize = 107 - "/containerd-faults/containerd.sock.ttrpc".len();

/// A folder that holds instances, `target/env` of the checkout unless told otherwise.
///
/// Two sites never share anything: the names of bridges and control groups are derived from
/// the path of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    root: PathBuf,
    tag: String,
}

impl Site {
    /// The site of this checkout, or the folder that [`DIR_VARIABLE`] names.
    ///
    /// # Errors
    /// If the folder cannot be made, or its path is too long for a Unix socket inside it.
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

    /// The site in a folder of the caller's choice.
    ///
    /// # Errors
    /// As for [`Site::of_checkout`].
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)
            .with_context(|| format!("cannot make the folder {}", root.display()))?;
        let root = root.canonicalize()?;
        anyhow::ensure!(
            root.as_os_str().len() <= LONGEST_SITE,
            "{} is too long for the Unix sockets in it; set {DIR_VARIABLE} to a shorter path",
            root.display()
        );
        let tag = format!("rt{:04x}", fnv(root.as_os_str().as_encoded_bytes()) & 0xffff);
        Ok(Self { root, tag })
    }

    /// The folder of the site.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A short name that stands for the site in the names of host-wide things.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// A number that is always the same for this site, to spread sites over ports and subnets.
    pub(crate) fn spread(&self) -> u64 {
        fnv(self.tag.as_bytes())
    }

    /// The folder of one instance; it need not be there.
    #[must_use]
    pub fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A folder that every engine of the site sees at the same path as the host does, for the
    /// sources of bind mounts.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn shared_dir(&self) -> Result<PathBuf> {
        let dir = self.root.join("shared");
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Waits for the lock of this name and holds it until the guard goes.
    pub(crate) fn lock(&self, name: &str) -> Result<Lock> {
        Lock::take(&self.root.join(format!(".{name}.lock")), name)
    }
}

/// A lock between processes; dropping it releases it, and so does the death of its holder.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "held for its drop")] File);

impl Lock {
    pub(crate) fn take(path: &Path, what: &str) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // Locking the file must not change it: another process may hold it.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open the lock file {}", path.display()))?;
        if file.try_lock().is_err() {
            crate::say(what, "waiting for another process that works on it");
            file.lock()?;
        }
        Ok(Self(file))
    }
}

/// FNV-1a: the standard library's hashes may change between releases, names may not.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_folders_have_two_tags() {
        let dir = tempfile::tempdir().unwrap();
        let a = Site::at(&dir.path().join("a")).unwrap();
        let b = Site::at(&dir.path().join("b")).unwrap();
        assert_ne!(a.tag(), b.tag());
        assert_eq!(a, Site::at(&dir.path().join("a")).unwrap());
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(LONGEST_SITE));
        assert!(Site::at(&long).is_err());
    }
}
