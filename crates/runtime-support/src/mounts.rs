//! Kinds of mount sources.

use std::fs::FileType;
use std::os::unix::fs::FileTypeExt as _;

use runtime_core::{Error, Mount, MountKind, Result};

/// Checks that the source of a mount has the kind that its spec requires.
///
/// # Errors
/// `InvalidArgument` naming the kind of the mount if the source has another kind.
pub fn check_mount_kind(index: usize, mount: &Mount, file_type: FileType) -> Result<()> {
    let Some(required) = mount.kind else { return Ok(()) };
    match kind_of(file_type) {
        Some(kind) if kind == required => Ok(()),
        kind => {
            let kind = kind.map_or("of an unknown kind", MountKind::as_str);
            let source = mount.source.display();
            Err(Error::invalid(
                format!("mounts[{index}].kind"),
                format!("{source} is not a {required}, but {kind}"),
            ))
        }
    }
}

fn kind_of(file_type: FileType) -> Option<MountKind> {
    if file_type.is_dir() {
        Some(MountKind::Directory)
    } else if file_type.is_file() {
        Some(MountKind::File)
    } else if file_type.is_socket() {
        Some(MountKind::Socket)
    } else if file_type.is_char_device() {
        Some(MountKind::CharDevice)
    } else if file_type.is_block_device() {
        Some(MountKind::BlockDevice)
    } else if file_type.is_fifo() {
        Some(MountKind::Fifo)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use runtime_core::ErrorKind;

    #[test]
    fn check_mount_kind_with_other_kind_returns_invalid_argument() {
        let directory = tempfile::tempdir().unwrap();
        let (file, socket) = (directory.path().join("file"), directory.path().join("socket"));
        std::fs::write(&file, "x").unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        let sources = [
            (directory.path(), MountKind::Directory),
            (&file, MountKind::File),
            (&socket, MountKind::Socket),
            (Path::new("/dev/null"), MountKind::CharDevice),
        ];
        let check = |path: &Path, kind| {
            let mount = Mount::new(path, "/inside").kind(kind);
            check_mount_kind(3, &mount, std::fs::metadata(path).unwrap().file_type())
        };
        for (path, own) in sources {
            for (_, kind) in sources {
                let checked = check(path, kind);
                assert_eq!(checked.is_ok(), kind == own, "{path:?} {kind}");
                if let Err(error) = checked {
                    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                    assert_eq!(error.field(), Some("mounts[3].kind"));
                }
            }
            assert!(check(path, MountKind::Fifo).is_err());
        }
        let any = Mount::new("/dev/null", "/inside");
        let null = std::fs::metadata("/dev/null").unwrap().file_type();
        assert!(check_mount_kind(0, &any, null).is_ok());
    }
}
