//! Files of a container on this host: its log directory, its /dev/shm and its /etc/hosts.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use runtime_core::{Result, Scope};
use rustix::mount::{MountFlags, UnmountFlags};

use super::blocking::run_blocking;
use super::peer::Peer;
use super::private_files::{self, failed};
use crate::model::annotations::Annotations;

/// Directories of this host that hold the files of the containers of a scope.
#[derive(Debug, Clone)]
pub(crate) struct ContainerDirs {
    pub(crate) peer: Peer,
    pub(crate) scope: Scope,
    /// Log directory of the scope.
    pub(crate) logs: PathBuf,
    /// Directory for files that the containers of the scope mount.
    pub(crate) state: PathBuf,
}

impl ContainerDirs {
    /// Creates the log directory of a container, and mounts its /dev/shm with this size.
    pub(crate) async fn prepare(
        self,
        annotations: &Annotations,
        shared_memory: Option<u64>,
    ) -> Result<()> {
        let (logs, shm) = (annotations.logs.clone(), annotations.shared_memory.clone());
        run_blocking(move || {
            if let Some(logs) = logs {
                private_files::create_in_scope(&self.logs, &logs)
                    .map_err(|error| failed("create", &logs, error))?;
            }
            if let (Some(shm), Some(size)) = (shm, shared_memory) {
                self.peer
                    .among_its_mounts(|| {
                        private_files::create_in_scope(&self.state, &shm)?;
                        if is_mounted(&shm) {
                            return Ok(());
                        }
                        let options = std::ffi::CString::new(format!("size={size},mode=1777"))?;
                        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                        Ok(rustix::mount::mount("shm", &shm, "tmpfs", flags, options.as_c_str())?)
                    })
                    .map_err(|error| failed("mount", &shm, error))?;
            }
            Ok(())
        })
        .await
    }

    /// Writes the /etc/hosts of a container.
    ///
    /// The file has mode 0644, because the users of the container read it. The directories above it
    /// are closed to the users of this host.
    pub(crate) async fn write_hosts(self, hosts: PathBuf, text: String) -> Result<()> {
        run_blocking(move || {
            self.peer
                .among_its_mounts(|| {
                    if let Some(directory) = hosts.parent() {
                        private_files::create_in_scope(&self.state, directory)?;
                    }
                    let mut file = private_files::file()
                        .write(true)
                        .create(true)
                        .truncate(true)
                        .open(&hosts)?;
                    file.write_all(text.as_bytes())?;
                    file.set_permissions(Permissions::from_mode(0o644))
                })
                .map_err(|error| failed("write", &hosts, error))
        })
        .await
    }

    /// Removes the files of a container. Files that do not exist are not an error.
    ///
    /// The paths are those of the create, which may have had other options than this connection.
    /// Every client of the engine can write annotations, so only paths that have the form of a
    /// create in this scope are removed.
    pub(crate) async fn clear(self, annotations: &Annotations) -> Result<()> {
        let scope = &self.scope;
        let is_in_nonce = |path: &PathBuf, name: &str| {
            path.ends_with(name) && path.parent().is_some_and(|nonce| is_of_scope(nonce, scope))
        };
        let logs = annotations.logs.clone().filter(|logs| is_of_scope(logs, scope));
        let shm = annotations.shared_memory.clone().filter(|shm| is_in_nonce(shm, "shm"));
        let hosts = annotations.hosts.clone().filter(|hosts| is_in_nonce(hosts, "hosts"));
        let peer = self.peer;
        run_blocking(move || {
            if let Some(hosts) = hosts {
                peer.among_its_mounts(|| {
                    match fs::remove_file(&hosts) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                    prune(&hosts)
                })
                .map_err(|error| failed("remove", &hosts, error))?;
            }
            if let Some(shm) = shm {
                peer.among_its_mounts(|| {
                    while is_mounted(&shm) {
                        rustix::mount::unmount(&shm, UnmountFlags::DETACH)?;
                    }
                    remove_directory(&shm)?;
                    prune(&shm)
                })
                .map_err(|error| failed("unmount", &shm, error))?;
            }
            if let Some(logs) = logs {
                remove_directory(&logs)
                    .and_then(|()| prune(&logs))
                    .map_err(|error| failed("remove", &logs, error))?;
            }
            Ok(())
        })
        .await
    }
}

/// Returns whether a name has the form of a nonce.
pub(crate) fn is_nonce(name: &OsStr) -> bool {
    name.len() == 32
        && name.as_encoded_bytes().iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether a directory has the form that a create uses: an absolute path that ends in the
/// scope and a nonce.
fn is_of_scope(directory: &Path, scope: &Scope) -> bool {
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    directory.is_absolute()
        && directory.components().all(is_plain)
        && directory.file_name().is_some_and(is_nonce)
        && directory.parent().and_then(Path::file_name) == Some(OsStr::new(scope.as_str()))
}

fn remove_directory(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes the empty directories above a path, up to the directory of the scope.
fn prune(path: &Path) -> io::Result<()> {
    let is_in_nonce = path.ends_with("shm") || path.ends_with("hosts");
    for above in path.ancestors().skip(1).take(if is_in_nonce { 2 } else { 1 }) {
        match fs::remove_dir(above) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => break,
            done => done?,
        }
    }
    Ok(())
}

/// Returns whether a directory is a mount point: its device differs from that of its parent.
fn is_mounted(directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|file| file.dev()).ok();
    directory.parent().is_some_and(|above| {
        device(directory).is_some_and(|own| device(above).is_some_and(|above| own != above))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_of_scope_accepts_only_directories_of_the_scope() {
        let scope = Scope::new("s").unwrap();
        let nonce = "0123456789abcdef0123456789abcdef";
        for (path, ours) in [
            (format!("/any/where/s/{nonce}"), true),
            (format!("/s/{nonce}"), true),
            (format!("any/s/{nonce}"), false),
            (format!("/any/other/{nonce}"), false),
            (format!("/any/../s/{nonce}"), false),
            ("/any/s/home".to_owned(), false),
            ("/any/s".to_owned(), false),
            ("/".to_owned(), false),
        ] {
            assert_eq!(is_of_scope(Path::new(&path), &scope), ours, "{path}");
        }
    }
}
