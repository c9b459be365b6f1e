//! Which log file is read after another, whatever was rotated or removed meanwhile.

use runtime_core::{Error, ErrorKind, Result};

use crate::host::log_files::LogFile;
use crate::model::log_directory::LogDirectory;

pub(super) fn thrown_away() -> Error {
    Error::new(ErrorKind::Lost)
        .with_message("a rotated log file was thrown away before it was read")
}

/// The file that is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) inode: u64,
    /// As of [`LogFile`].
    pub(super) number: Option<u64>,
    /// Whether its name is that of the current file, or was when it was removed.
    pub(super) is_current: bool,
}

/// The file that follows the one that is open, or the first one where none is open.
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
                // Rotated and packed, and so may be what came next.
                None if !directory.keeps_all() && !files.is_empty() => return Err(thrown_away()),
                None => (number, following_removed(directory, files, number, is_current)?),
            }
        }
    };
    if let (Some(number), Some(next)) = (number, next.and_then(|next| next.number))
        && next > number + 1
    {
        return Err(thrown_away());
    }
    Ok(next)
}

/// The file that follows one that is not there any more. Those with a lower number were read before it.
fn following_removed<'a>(
    directory: &LogDirectory,
    files: &'a [LogFile],
    number: Option<u64>,
    was_current: bool,
) -> Result<Option<&'a LogFile>> {
    // One with the same number has come after the other was removed.
    let is_later = |file: &&LogFile| number.is_some() && file.number >= number;
    match (files.iter().find(is_later), files.last()) {
        (Some(next), _) => Ok(Some(next)),
        // Others came after it, which are gone as well.
        (None, _) if !was_current => Err(thrown_away()),
        // It was the last one: the engine still writes to it.
        (None, None) => Ok(None),
        (None, Some(last)) if number.is_some() && last.path != directory.current() => Ok(None),
        // Something else has rotated it, or more was removed than it: what came next is not known.
        (None, Some(_)) => Err(thrown_away()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::log_directory::LOG_FILE;

    #[test]
    fn what_was_read_does_not_come_again_when_a_file_is_removed() {
        let directory = LogDirectory::managed("/logs");
        // Files are named by their inodes; 0 is that of the current one.
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
            // The current one was removed.
            (&all[..2], Some((9, Some(3))), nothing),
            // And the engine has opened a new one.
            (&all, Some((9, Some(3))), Ok(Some(0))),
            // Which was rotated.
            (&[file(1, 1), file(2, 2), file(3, 3), file(0, 4)], Some((9, Some(3))), Ok(Some(3))),
            // A rotated one was removed while it was read, and those before it, or one after it.
            (&[file(1, 1), file(3, 3), file(0, 4)], Some((2, Some(2))), Ok(Some(3))),
            (&[file(3, 3), file(0, 4)], Some((2, Some(2))), Ok(Some(3))),
            (&[file(1, 1), file(0, 4)], Some((2, Some(2))), Err(ErrorKind::Lost)),
            // All were removed, and the numbers begin again.
            (&[], Some((2, Some(2))), nothing),
            (&[file(0, 1)], Some((2, Some(2))), Err(ErrorKind::Lost)),
            // Something else has rotated it.
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
        // A rotated one that was removed with all that came after it.
        for files in [&[][..], &all[..1], &all[..2]] {
            let error = following(&directory, files, open(9, Some(3), false)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Lost, "{files:?}");
        }
    }
}
