//! Rotation of the log files of a container: the steps on the file system.
//!
//! The engine writes to one file until the file is renamed and the engine is asked to open it
//! again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;

use super::log_files::{self, LogFile};
use crate::model::log_directory::{LOG_FILE, LogDirectory};

/// Whether some container's current file has more bytes, or is missing.
pub(crate) fn has_work(root: &Path, max_bytes: u64) -> bool {
    fs::read_dir(root).into_iter().flatten().flatten().any(|folder| {
        let folder = folder.path();
        match fs::metadata(folder.join(LOG_FILE)) {
            Ok(file) => file.len() > max_bytes,
            Err(_) => left_over(&folder).is_ok_and(|file| file.is_some()),
        }
    })
}

/// The newest of the files with a number, where there is no current one. Whoever has renamed it was
/// killed before the engine had heard of it: the engine still writes into this one, and has to be
/// told to open a new one.
fn left_over(folder: &Path) -> io::Result<Option<PathBuf>> {
    if folder.join(LOG_FILE).try_exists()? {
        return Ok(None);
    }
    let files = match rotated(folder) {
        Ok(files) => files,
        // The container was removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let ours = files.into_iter().filter(|file| file.number.is_some());
    Ok(ours.max_by_key(|file| file.number).map(|file| file.path))
}

/// Makes a file that was left over the current one again.
pub(crate) fn give_back(folder: &Path) -> io::Result<()> {
    let Some(file) = left_over(folder)? else { return Ok(()) };
    match rename_to_new(&file, &folder.join(LOG_FILE)) {
        // Another process has been quicker.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) =>
        {
            Ok(())
        }
        done => done,
    }
}

/// Gives the current file a number, if it is too large. Gives the file that the engine writes into
/// and that is not the current one any more, or was not before either.
pub(crate) fn rename(folder: &Path, max_bytes: u64) -> io::Result<Option<PathBuf>> {
    let current = folder.join(LOG_FILE);
    match fs::metadata(&current) {
        Ok(file) if file.len() > max_bytes => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return left_over(folder),
        Err(error) => return Err(error),
    }
    let mut number = rotated(folder)?.iter().filter_map(|file| file.number).max().unwrap_or(0);
    loop {
        number += 1;
        let name = folder.join(format!("{LOG_FILE}.{number:010}"));
        match rename_to_new(&current, &name) {
            Ok(()) => return Ok(Some(name)),
            // Another process rotates as well: this one looks again next time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// All files but the current one.
fn rotated(folder: &Path) -> io::Result<Vec<LogFile>> {
    let mut files = log_files::list(&LogDirectory::managed(folder))?;
    files.retain(|file| file.path.extension().is_some_and(|name| name != "log"));
    Ok(files)
}

/// Renames without replacing.
pub(crate) fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::CWD;
    Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// Removes the oldest rotated files.
pub(crate) fn throw_away(folder: &Path, keep: u32) -> io::Result<()> {
    let rotated = rotated(folder)?;
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
    fn numbers_go_up_and_the_oldest_go_first() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder_in(&root);
        let write = |text: &str| fs::write(folder.join(LOG_FILE), text).unwrap();
        assert_eq!(rename(&folder, 3).unwrap(), None);
        write("abc");
        assert_eq!(rename(&folder, 3).unwrap(), None);
        assert!(!has_work(root.path(), 3));
        for _ in 0..3 {
            write("abcd");
            rename(&folder, 3).unwrap().unwrap();
        }
        write("abcd");
        assert!(has_work(root.path(), 3));
        throw_away(&folder, 2).unwrap();
        assert_eq!(
            names(&folder),
            ["container.log.0000000002", "container.log.0000000003", "container.log"]
        );
    }

    #[test]
    fn a_rotation_that_broke_off_is_taken_up_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder_in(&root);
        assert!(!has_work(root.path(), 3), "it was not started");
        for _ in 0..2 {
            fs::write(folder.join(LOG_FILE), "abcd").unwrap();
            rename(&folder, 3).unwrap().unwrap();
        }
        // Here the process was killed. The next one finds the file that the engine writes into, as
        // often as it looks, and renames nothing.
        for _ in 0..2 {
            assert!(has_work(root.path(), 1000), "whatever its size");
            let file = rename(&folder, 1000).unwrap().unwrap();
            assert_eq!(file, folder.join("container.log.0000000002"));
        }
        // The engine has opened a new one.
        fs::write(folder.join(LOG_FILE), "").unwrap();
        assert!(!has_work(root.path(), 1000));
        assert_eq!(rename(&folder, 1000).unwrap(), None);
    }

    #[test]
    fn the_last_file_of_what_has_ended_is_the_current_one_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder_in(&root);
        give_back(&folder).unwrap();
        for text in ["first", "second"] {
            fs::write(folder.join(LOG_FILE), text).unwrap();
            rename(&folder, 3).unwrap().unwrap();
        }
        give_back(&folder).unwrap();
        assert_eq!(names(&folder), ["container.log.0000000001", "container.log"]);
        assert_eq!(fs::read_to_string(folder.join(LOG_FILE)).unwrap(), "second");
        assert!(!has_work(root.path(), 1000));
        // What is as it should be stays so, and what is gone is no error.
        give_back(&folder).unwrap();
        assert_eq!(names(&folder).len(), 2);
        give_back(&root.path().join("gone")).unwrap();
    }

    /// The folder of a container.
    fn folder_in(root: &tempfile::TempDir) -> PathBuf {
        let folder = root.path().join("nonce");
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        log_files::list(&LogDirectory::managed(folder))
            .unwrap()
            .into_iter()
            .map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }
}
