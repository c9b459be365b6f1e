//! Rotation of log files: the steps on the file system.
//!
//! The engine writes to one file until the file is renamed and a request makes the engine open its
//! log again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;

use super::log_files::{self, LogFile};
use crate::model::log_directory::{LOG_FILE, LogDirectory};

/// Returns whether the current file of any container has more bytes, or is missing.
pub(crate) fn has_work(root: &Path, max_bytes: u64) -> bool {
    fs::read_dir(root).into_iter().flatten().flatten().any(|directory| {
        let directory = directory.path();
        match fs::metadata(directory.join(LOG_FILE)) {
            Ok(file) => file.len() > max_bytes,
            Err(_) => unfinished(&directory).is_ok_and(|file| file.is_some()),
        }
    })
}

/// Returns the newest rotated file if there is no current file. A process was killed between the
/// rename and the request, so the engine still writes to this file.
fn unfinished(directory: &Path) -> io::Result<Option<PathBuf>> {
    if directory.join(LOG_FILE).try_exists()? {
        return Ok(None);
    }
    let files = match rotated(directory) {
        Ok(files) => files,
        // The container was removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let ours = files.into_iter().filter(|file| file.number.is_some());
    Ok(ours.max_by_key(|file| file.number).map(|file| file.path))
}

/// Renames the file of an unfinished rotation to the current file.
pub(crate) fn restore(directory: &Path) -> io::Result<()> {
    let Some(file) = unfinished(directory)? else { return Ok(()) };
    match rename_to_new(&file, &directory.join(LOG_FILE)) {
        // Another process has done it.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) =>
        {
            Ok(())
        }
        done => done,
    }
}

/// Renames the current file if it is too large. Returns the rotated file to which the engine still
/// writes, also that of an unfinished rotation.
pub(crate) fn rename(directory: &Path, max_bytes: u64) -> io::Result<Option<PathBuf>> {
    let current = directory.join(LOG_FILE);
    match fs::metadata(&current) {
        Ok(file) if file.len() > max_bytes => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return unfinished(directory),
        Err(error) => return Err(error),
    }
    let mut number = rotated(directory)?.iter().filter_map(|file| file.number).max().unwrap_or(0);
    loop {
        number += 1;
        let name = directory.join(format!("{LOG_FILE}.{number:010}"));
        match rename_to_new(&current, &name) {
            Ok(()) => return Ok(Some(name)),
            // Another process has rotated the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Lists the rotated files.
fn rotated(directory: &Path) -> io::Result<Vec<LogFile>> {
    let mut files = log_files::list(&LogDirectory::managed(directory))?;
    files.retain(|file| file.path.extension().is_some_and(|name| name != "log"));
    Ok(files)
}

/// Renames a file, unless the new name exists.
pub(crate) fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::CWD;
    Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// Removes the oldest rotated files, and keeps this number of them.
pub(crate) fn remove_oldest(directory: &Path, keep: u32) -> io::Result<()> {
    let rotated = rotated(directory)?;
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let surplus = rotated.len().saturating_sub(keep);
    for file in rotated.into_iter().take(surplus) {
        match fs::remove_file(&file.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rename_increments_the_number() {
        let root = tempfile::tempdir().unwrap();
        let directory = directory_in(&root);
        let write = |text: &str| fs::write(directory.join(LOG_FILE), text).unwrap();
        assert_eq!(rename(&directory, 3).unwrap(), None);
        write("abc");
        assert_eq!(rename(&directory, 3).unwrap(), None);
        assert!(!has_work(root.path(), 3));
        for _ in 0..3 {
            write("abcd");
            rename(&directory, 3).unwrap().unwrap();
        }
        write("abcd");
        assert!(has_work(root.path(), 3));
        remove_oldest(&directory, 2).unwrap();
        assert_eq!(
            names(&directory),
            ["container.log.0000000002", "container.log.0000000003", "container.log"]
        );
    }

    #[test]
    fn rename_returns_file_of_unfinished_rotation() {
        let root = tempfile::tempdir().unwrap();
        let directory = directory_in(&root);
        assert!(!has_work(root.path(), 3), "it was not started");
        for _ in 0..2 {
            fs::write(directory.join(LOG_FILE), "abcd").unwrap();
            rename(&directory, 3).unwrap().unwrap();
        }
        // The process was killed here. Later calls find the file to which the engine writes, and
        // rename nothing.
        for _ in 0..2 {
            assert!(has_work(root.path(), 1000), "whatever its size");
            let file = rename(&directory, 1000).unwrap().unwrap();
            assert_eq!(file, directory.join("container.log.0000000002"));
        }
        // The engine has opened a new file.
        fs::write(directory.join(LOG_FILE), "").unwrap();
        assert!(!has_work(root.path(), 1000));
        assert_eq!(rename(&directory, 1000).unwrap(), None);
    }

    #[test]
    fn restore_makes_the_newest_file_current() {
        let root = tempfile::tempdir().unwrap();
        let directory = directory_in(&root);
        restore(&directory).unwrap();
        for text in ["first", "second"] {
            fs::write(directory.join(LOG_FILE), text).unwrap();
            rename(&directory, 3).unwrap().unwrap();
        }
        restore(&directory).unwrap();
        assert_eq!(names(&directory), ["container.log.0000000001", "container.log"]);
        assert_eq!(fs::read_to_string(directory.join(LOG_FILE)).unwrap(), "second");
        assert!(!has_work(root.path(), 1000));
        // A second call, and one for a missing directory, are no-ops.
        restore(&directory).unwrap();
        assert_eq!(names(&directory).len(), 2);
        restore(&root.path().join("gone")).unwrap();
    }

    /// Creates the directory of a container.
    fn directory_in(root: &tempfile::TempDir) -> PathBuf {
        let directory = root.path().join("nonce");
        fs::create_dir(&directory).unwrap();
        directory
    }

    fn names(directory: &Path) -> Vec<String> {
        log_files::list(&LogDirectory::managed(directory))
            .unwrap()
            .into_iter()
            .map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }
}
