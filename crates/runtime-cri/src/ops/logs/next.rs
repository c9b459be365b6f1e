//! Selection of the next log file, after rotations and removals.

use runtime_core::{Error, ErrorKind, Result};

use crate::host::log_files::LogFile;
use crate::model::log_directory::LogDirectory;

/// Returns the error for a removed file that was not read.
pub(super) fn file_removed() -> Error {
    Error::new(ErrorKind::Lost).with_message("a rotated log file was removed before it was read")
}

/// Open file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) inode: u64,
    /// See [`LogFile::number`].
    pub(super) number: Option<u64>,
    /// Whether its current or last name is that of the current file.
    pub(super) is_current: bool,
}

/// Returns the file after the open one, or the first file if none is open.
pub(super) fn following<'a>(
    directory: &LogDirectory,
    files: &'a [LogFile],
    open: Option<Reading>,
) -> Result<Option<&'a LogFile>> {
    let (number, next) = match open {
        None => (Some(0), files.first()),
        Some(Reading { inode, number, is_current }) => {
            match files.iter().position(|file| file.inode == inode) {
                Some(at) => (files[at].number, files.get(at + 1)),
                // The file was compressed, and so may be those after it.
                None if !directory.keeps_all() && !files.is_empty() => return Err(file_removed()),
                None => (number, following_removed(directory, files, number, is_current)?),
            }
        }
    };
    if let (Some(number), Some(next)) = (number, next.and_then(|next| next.number))
        && next > number + 1
    {
        return Err(file_removed());
    }
    Ok(next)
}

/// Returns the file after a removed one. Files with a lower number were read before it.
fn following_removed<'a>(
    directory: &LogDirectory,
    files: &'a [LogFile],
    number: Option<u64>,
    was_current: bool,
) -> Result<Option<&'a LogFile>> {
    // A file with the same number is newer than the removed one.
    let is_later = |file: &&LogFile| number.is_some() && file.number >= number;
    match (files.iter().find(is_later), files.last()) {
        (Some(next), _) => Ok(Some(next)),
        // Files after it were removed as well.
        (None, _) if !was_current => Err(file_removed()),
        // It was the last file, and the engine still writes to it.
        (None, None) => Ok(None),
        (None, Some(last)) if number.is_some() && last.path != directory.current() => Ok(None),
        // Another program has rotated it, or more files were removed: the next file is unknown.
        (None, Some(_)) => Err(file_removed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::log_directory::LOG_FILE;

    #[test]
    fn following_repeats_no_file_after_removals() {
        let directory = LogDirectory::managed("/logs");
        // Files are identified by their inodes; 0 is that of the current file.
        let file = |inode: u64, number: u64| LogFile {
            path: match inode {
                0 => directory.current(),
                _ => directory.path.join(format!("{LOG_FILE}.{number:010}")),
            },
            inode,
            number: Some(number),
        };
        let (all, nothing) = ([file(1, 1), file(2, 2), file(0, 3)], Ok(None));
        for (files, open, next) in [
            (&all[..], None, Ok(Some(1))),
            (&all, Some((2, Some(2))), Ok(Some(0))),
            (&all, Some((0, Some(3))), nothing),
            // The current file was removed.
            (&all[..2], Some((9, Some(3))), nothing),
            // And the engine has opened a new file.
            (&all, Some((9, Some(3))), Ok(Some(0))),
            // And the new file was rotated.
            (&[file(1, 1), file(2, 2), file(3, 3), file(0, 4)], Some((9, Some(3))), Ok(Some(3))),
            // A rotated file was removed while it was read, with files before or after it.
            (&[file(1, 1), file(3, 3), file(0, 4)], Some((2, Some(2))), Ok(Some(3))),
            (&[file(3, 3), file(0, 4)], Some((2, Some(2))), Ok(Some(3))),
            (&[file(1, 1), file(0, 4)], Some((2, Some(2))), Err(ErrorKind::Lost)),
            // All were removed, and the numbers restart.
            (&[], Some((2, Some(2))), nothing),
            (&[file(0, 1)], Some((2, Some(2))), Err(ErrorKind::Lost)),
            // Another program has rotated the file.
            (&all, Some((9, None)), Err(ErrorKind::Lost)),
        ] {
            let reading = open.map(|(inode, number)| Reading { inode, number, is_current: true });
            let found = following(&directory, files, reading);
            let found = found.map(|file| file.map(|file| file.inode));
            assert_eq!(found.map_err(|error| error.kind()), next, "{open:?} in {files:?}");
        }
        let kubelets = LogDirectory::kubelet("/logs", "0.log");
        let open = |inode, number, is_current| Some(Reading { inode, number, is_current });
        let packed = following(&kubelets, &all, open(9, Some(2), true));
        assert_eq!(packed.unwrap_err().kind(), ErrorKind::Lost);
        // A rotated file was removed with all files after it.
        for files in [&[][..], &all[..1], &all[..2]] {
            let error = following(&directory, files, open(9, Some(3), false)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Lost, "{files:?}");
        }
    }
}
