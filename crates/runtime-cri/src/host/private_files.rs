//! Files and directories of this host that only this user can open.
//!
//! This crate creates all its files in the directory of a scope, which has mode 0700, because it
//! holds the output, the labels and the shared memory of containers. Files have mode 0600, except
//! for the `/etc/hosts` of a container.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use runtime_core::{Error, ErrorKind};

use crate::BACKEND;

/// Mode of directories.
const DIRECTORY_MODE: u32 = 0o700;
/// Mode of files.
const FILE_MODE: u32 = 0o600;

/// Number of attempts to create a directory whose parent is removed concurrently.
const CREATE_ATTEMPTS: usize = 20;

/// Returns options that open a file without following a link, and create it with mode 0600.
pub(crate) fn file() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    options.mode(FILE_MODE).custom_flags(flags);
    options
}

/// Creates a directory and its missing parents with mode 0700. An existing one is left as it is.
///
/// Another process may remove an empty parent concurrently.
pub(crate) fn create_dir_all(directory: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < CREATE_ATTEMPTS => {
                tries += 1;
            }
            done => return done,
        }
    }
}

/// Creates a directory below `scope`, the directory of a scope, both with mode 0700.
///
/// An existing directory of the scope is closed to others, and refused if it is a link or belongs
/// to another user, who could replace what is in it.
pub(crate) fn create_in_scope(scope: &Path, directory: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        create_dir_all(scope)?;
        match close_to_others(scope).and_then(|()| create_dir_all(directory)) {
            // Another process has removed the directory, because it was empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < CREATE_ATTEMPTS => {
                tries += 1;
            }
            done => return done,
        }
    }
}

fn close_to_others(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is not a directory of this user", directory.display()),
        ));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))?;
    }
    Ok(())
}

/// Maps an I/O error of work on a path.
pub(crate) fn failed(work: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::ResourceExhausted,
        io::ErrorKind::TimedOut => ErrorKind::Timeout,
        io::ErrorKind::Unsupported => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    };
    Error::new(kind)
        .with_message(format!("failed to {work} {}", path.display()))
        .with_source(error)
        .on(BACKEND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn create_in_scope_closes_directories_to_others() {
        let root = tempfile::tempdir().unwrap();
        let scope = root.path().join("new/scope");
        create_in_scope(&scope, &scope.join("nonce/shm")).unwrap();
        for path in ["new", "new/scope", "new/scope/nonce", "new/scope/nonce/shm"] {
            assert_eq!(mode(&root.path().join(path)), 0o700, "{path}");
        }
        // A directory of an earlier version of this library.
        fs::set_permissions(&scope, Permissions::from_mode(0o755)).unwrap();
        create_in_scope(&scope, &scope.join("other")).unwrap();
        assert_eq!(mode(&scope), 0o700);
    }

    #[test]
    fn create_in_scope_refuses_a_link() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("elsewhere")).unwrap();
        let scope = root.path().join("scope");
        std::os::unix::fs::symlink(root.path().join("elsewhere"), &scope).unwrap();
        let error = create_in_scope(&scope, &scope.join("nonce")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(!root.path().join("elsewhere/nonce").exists());
    }

    #[test]
    fn file_has_private_mode_and_follows_no_link() {
        let root = tempfile::tempdir().unwrap();
        let (path, link) = (root.path().join("a"), root.path().join("b"));
        file().write(true).create_new(true).open(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(file().write(true).create(true).open(&link).is_err());
    }
}
