//! Journal of removed containers.
//!
//! The engine has no information about a container after its removal. So this library appends a
//! record to a file of the scope before it removes a container, from which later event streams,
//! also those of other processes, report the removal. The file is in the state directory, and keeps
//! the last few hundred records.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use runtime_core::{ContainerInfo, Scope};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::host::private_files;

/// Number of records that are kept, as many as the Docker Engine keeps events.
const RECORDS_KEPT: usize = 256;

/// Deadline for the lock of the file.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);
/// Delay between two attempts to lock the file.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Time after which an unchanged file of a scope is removed.
const FILE_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Record of a removed container, written before the removal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RemovalRecord {
    /// Time at which the removal began.
    pub(crate) removed_at: SystemTime,
    /// Whether a process of the container ran out of memory.
    pub(crate) out_of_memory: bool,
    /// Last information about the container.
    pub(crate) info: ContainerInfo,
}

/// Journal of a scope.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    path: PathBuf,
}

/// Position in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct JournalOffset {
    offset: u64,
    /// First bytes of the file, which identify it. An inode may be reused.
    beginning: Vec<u8>,
}

/// Number of bytes that identify a file: the first line begins with a time in nanoseconds.
const BEGINNING_BYTES: usize = 96;

impl Journal {
    /// Returns the journal of a scope.
    pub(crate) fn new(state_dir: &Path, scope: &Scope) -> Self {
        Self { path: state_dir.join(format!("{scope}.lives")) }
    }

    /// Returns the directory of the file, which changes with every write.
    pub(crate) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Appends a record. It may block.
    pub(crate) fn write(&self, record: &RemovalRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let (mut file, lines) = self.lock()?;
        if lines < 2 * RECORDS_KEPT {
            return file.write_all(&line);
        }
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut text)?;
        let mut kept: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        kept.drain(..kept.len().saturating_sub(RECORDS_KEPT));
        // The rename is atomic, so readers see the old file or the new one.
        let fresh = self.path.with_extension("new");
        // A partial file of a killed process is overwritten.
        let mut out = private_files::file().write(true).create(true).truncate(true).open(&fresh)?;
        out.write_all(&kept.concat())?;
        out.write_all(&line)?;
        fs::rename(&fresh, &self.path)
    }

    /// Returns the records after an offset, and advances the offset. If the file was replaced,
    /// these may include records that were read before. It may block.
    pub(crate) fn read(&self, offset: &mut JournalOffset) -> io::Result<Vec<RemovalRecord>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let mut beginning = Vec::with_capacity(BEGINNING_BYTES);
        Read::by_ref(&mut file).take(BEGINNING_BYTES as u64).read_to_end(&mut beginning)?;
        if beginning != offset.beginning || file.metadata()?.len() < offset.offset {
            *offset = JournalOffset { offset: 0, beginning };
        }
        file.seek(SeekFrom::Start(offset.offset))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // A partial line is left for the next call.
        let whole = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
        offset.offset += whole as u64;
        let lines = text[..whole].split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Opens the file with an exclusive lock, and counts its lines.
    ///
    /// # Errors
    /// `TimedOut` if another process keeps the file locked.
    fn lock(&self) -> io::Result<(File, usize)> {
        let until = Instant::now() + LOCK_DEADLINE;
        loop {
            let mut file = match self.open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    private_files::create_dir_all(self.directory())?;
                    self.sweep();
                    self.open()?
                }
                file => file?,
            };
            while let Err(error) =
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            {
                if error != rustix::io::Errno::WOULDBLOCK {
                    return Err(error.into());
                }
                if Instant::now() >= until {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "another process keeps the journal locked",
                    ));
                }
                std::thread::sleep(LOCK_POLL_INTERVAL);
            }
            // Another process may have replaced the file in the meantime.
            if fs::metadata(&self.path)
                .is_ok_and(|there| file.metadata().is_ok_and(|here| here.ino() == there.ino()))
            {
                let mut text = Vec::new();
                file.read_to_end(&mut text)?;
                let lines = memchr::memchr_iter(b'\n', &text).count();
                return Ok((file, lines));
            }
        }
    }

    fn open(&self) -> io::Result<File> {
        let file = private_files::file().read(true).append(true).create(true).open(&self.path)?;
        if file.metadata()?.mode() & 0o077 != 0 {
            // A file of an earlier version of this library.
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(file)
    }

    /// Removes the files of scopes that have not changed for long.
    fn sweep(&self) {
        for file in fs::read_dir(self.directory()).into_iter().flatten().flatten() {
            let path = file.path();
            let old = file
                .metadata()
                .and_then(|file| file.modified())
                .is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed > FILE_AGE_MAX));
            if old && path.extension().is_some_and(|kind| kind == "lives") {
                // Another process may have removed it.
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use runtime_core::{ContainerId, ContainerStatus};

    use super::*;

    pub(crate) fn record(number: usize) -> RemovalRecord {
        let id = ContainerId::new(number.to_string());
        RemovalRecord {
            removed_at: SystemTime::now(),
            out_of_memory: false,
            info: ContainerInfo::new(id, "name", ContainerStatus::Exited),
        }
    }

    #[test]
    fn read_returns_each_record_once_and_the_oldest_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(&directory.path().join("new"), &Scope::new("s").unwrap());
        let mut offset = JournalOffset::default();
        assert_eq!(journal.read(&mut offset).unwrap(), []);
        let first = record(0);
        journal.write(&first).unwrap();
        assert_eq!(journal.read(&mut offset).unwrap(), [first]);
        assert_eq!(journal.read(&mut offset).unwrap(), []);
        for number in 1..1000 {
            journal.write(&record(number)).unwrap();
        }
        let all = journal.read(&mut JournalOffset::default()).unwrap();
        assert!(all.len() >= RECORDS_KEPT && all.len() <= 2 * RECORDS_KEPT, "{}", all.len());
        assert_eq!(all.last().unwrap().info.id.as_str(), "999");
        let later = journal.read(&mut offset).unwrap();
        assert_eq!(later, all);
        assert_eq!(journal.read(&mut offset).unwrap(), []);
    }

    #[test]
    fn write_to_locked_journal_times_out() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path(), &Scope::new("s").unwrap());
        journal.write(&record(0)).unwrap();
        let file = File::open(&journal.path).unwrap();
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        assert_eq!(journal.write(&record(1)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Readers take no lock.
        assert_eq!(journal.read(&mut JournalOffset::default()).unwrap().len(), 1);
        drop(file);
        journal.write(&record(2)).unwrap();
    }

    #[test]
    fn journal_has_private_mode() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(&directory.path().join("new"), &Scope::new("s").unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        for number in 0..3 * RECORDS_KEPT {
            journal.write(&record(number)).unwrap();
        }
        assert_eq!((mode(journal.directory()), mode(&journal.path)), (0o700, 0o600));
        fs::set_permissions(&journal.path, Permissions::from_mode(0o644)).unwrap();
        journal.write(&record(0)).unwrap();
        assert_eq!(mode(&journal.path), 0o600);
    }

    #[test]
    fn concurrent_writes_are_all_kept() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path(), &Scope::new("s").unwrap());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let journal = &journal;
                scope.spawn(move || {
                    for number in 0..50 {
                        journal.write(&record(thread * 50 + number)).unwrap();
                    }
                });
            }
        });
        assert_eq!(journal.read(&mut JournalOffset::default()).unwrap().len(), 200);
    }
}
