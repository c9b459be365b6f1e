//! Files of a container on this host: the directory of its logs, its /dev/shm and its /etc/hosts.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};
use std::time::Duration;

use runtime_core::{Error, ErrorKind, Result, Scope};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::BACKEND;
use crate::notes::Notes;
use crate::private::{self, failed};
use crate::shared::Shared;
use crate::spec::Plan;

/// Creates the directory of the logs, and mounts the container's /dev/shm.
pub(crate) async fn prepare_host(shared: &Shared, plan: &Plan) -> Result<()> {
    let (logs, shm) = (plan.notes.logs.clone(), plan.notes.shared_memory.clone());
    let size = plan.shared_memory;
    let peer = shared.client.peer().clone();
    let (log_scope, state_scope) = (shared.log_scope(), shared.state_scope());
    on_host(move || {
        if let Some(logs) = logs {
            private::create_in_scope(&log_scope, &logs)
                .map_err(|error| failed("create", &logs, error))?;
        }
        if let (Some(shm), Some(size)) = (shm, size) {
            peer.among_its_mounts(|| {
                private::create_in_scope(&state_scope, &shm)?;
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

/// Writes the container's /etc/hosts, which needs the addresses of its sandbox.
///
/// The file has mode 0644, because the users of the container read it. The directories above it are
/// closed to the users of this host.
pub(crate) async fn write_hosts(shared: &Shared, plan: &Plan, addresses: &[String]) -> Result<()> {
    let Some(hosts) = plan.notes.hosts.clone() else { return Ok(()) };
    let text = plan.hosts(addresses);
    let peer = shared.client.peer().clone();
    let state_scope = shared.state_scope();
    on_host(move || {
        peer.among_its_mounts(|| {
            if let Some(directory) = hosts.parent() {
                private::create_in_scope(&state_scope, directory)?;
            }
            let mut file = private::file().write(true).create(true).truncate(true).open(&hosts)?;
            file.write_all(text.as_bytes())?;
            file.set_permissions(Permissions::from_mode(0o644))
        })
        .map_err(|error| failed("write", &hosts, error))
    })
    .await
}

/// Removes what lies outside of the engine. What is not there is no error.
pub(crate) async fn clear_host(shared: &Shared, notes: &Notes) -> Result<()> {
    let peer = shared.client.peer().clone();
    // The directories are those of the create, whatever those of this connection are. Notes can be
    // written by anyone who can speak to the engine: only what is named as this library names it.
    let scope = shared.scope.clone();
    let logs = notes.logs.clone().filter(|logs| is_of_scope(logs, &scope));
    let shm = notes.shared_memory.clone().filter(|shm| {
        shm.ends_with("shm") && shm.parent().is_some_and(|nonce| is_of_scope(nonce, &scope))
    });
    let hosts = notes.hosts.clone().filter(|hosts| {
        hosts.ends_with("hosts") && hosts.parent().is_some_and(|nonce| is_of_scope(nonce, &scope))
    });
    on_host(move || {
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
                remove_folder(&shm)?;
                prune(&shm)
            })
            .map_err(|error| failed("unmount", &shm, error))?;
        }
        if let Some(logs) = logs {
            remove_folder(&logs)
                .and_then(|()| prune(&logs))
                .map_err(|error| failed("remove", &logs, error))?;
        }
        Ok(())
    })
    .await
}

/// Returns whether a name is that of a nonce.
pub(crate) fn is_nonce(name: &OsStr) -> bool {
    name.len() == 32
        && name.as_encoded_bytes().iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns whether a directory has the name that a create gives it: an absolute path that ends in
/// the scope and a nonce.
fn is_of_scope(directory: &Path, scope: &Scope) -> bool {
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    directory.is_absolute()
        && directory.components().all(is_plain)
        && directory.file_name().is_some_and(is_nonce)
        && directory.parent().and_then(Path::file_name) == Some(OsStr::new(scope.as_str()))
}

/// Runs `work` on the blocking thread pool. It is given up after a while, as on a file system that
/// does not answer.
pub(crate) async fn on_host<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::time::timeout(HOST_DEADLINE, tokio::task::spawn_blocking(work)).await {
        Ok(done) => done.unwrap_or_else(|error| {
            Err(Error::internal("the work on the host broke off").with_source(error).on(BACKEND))
        }),
        Err(_) => Err(Error::new(ErrorKind::Timeout)
            .with_message(format!(
                "the file system of this host has not answered within {HOST_DEADLINE:?}"
            ))
            .on(BACKEND)),
    }
}

/// How long work on the files of this host may take. The removal of a large log takes seconds.
const HOST_DEADLINE: Duration = Duration::from_secs(120);

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes the directories above, up to the one of the scope, that are empty now.
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

/// Whether something is mounted right there: its device is not that of the folder above.
fn is_mounted(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|file| file.dev()).ok();
    folder.parent().is_some_and(|above| {
        device(folder).is_some_and(|own| device(above).is_some_and(|above| own != above))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_the_scope_are_removed() {
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
