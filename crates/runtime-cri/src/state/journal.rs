//! What became of the containers that are gone.
//!
//! The engine forgets a container with its removal. So that events can be told afterwards, and
//! by other processes, whoever removes one writes its life into a file of the scope first. The
//! file is in the folder for what goes away with the host's next start, and keeps the last few
//! hundred lives.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use runtime_core::{ContainerInfo, Scope};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::host::private_files;

/// How many lives are kept: as many as Docker's engine keeps events.
const KEPT: usize = 256;

/// How long a write waits for the writes of other processes, and how often it tries.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// How long the file of a scope is kept in which nothing happens.
const LONGEST_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The life of one container, written before it is removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RemovalRecord {
    /// When the removal began.
    pub(crate) removed_at: SystemTime,
    /// Whether a process of it was killed for want of memory.
    pub(crate) out_of_memory: bool,
    /// The last that was known of it.
    pub(crate) info: ContainerInfo,
}

/// The file of one scope.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    path: PathBuf,
}

/// A place in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct JournalOffset {
    offset: u64,
    /// How the file began. Its number would not do: those come again.
    beginning: Vec<u8>,
}

/// Enough of the first line to know it again: it begins with a time in nanoseconds.
const BEGINNING: usize = 96;

impl Journal {
    pub(crate) fn new(state_dir: &Path, scope: &Scope) -> Self {
        Self { path: state_dir.join(format!("{scope}.lives")) }
    }

    /// The folder that changes when something is written.
    pub(crate) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Writes a life down. It may block.
    pub(crate) fn write(&self, life: &RemovalRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(life)?;
        line.push(b'\n');
        let (mut file, lines) = self.lock()?;
        if lines < 2 * KEPT {
            return file.write_all(&line);
        }
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut text)?;
        let mut kept: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        kept.drain(..kept.len().saturating_sub(KEPT));
        // Readers see the old file or the new one, and never half of one.
        let fresh = self.path.with_extension("new");
        // One that a process has left half written is replaced.
        let mut out = private_files::file().write(true).create(true).truncate(true).open(&fresh)?;
        out.write_all(&kept.concat())?;
        out.write_all(&line)?;
        fs::rename(&fresh, &self.path)
    }

    /// What was written after a place, which moves on. Where the file is a new one, that can be
    /// something that was read before. It may block.
    pub(crate) fn read(&self, place: &mut JournalOffset) -> io::Result<Vec<RemovalRecord>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let mut beginning = Vec::with_capacity(BEGINNING);
        Read::by_ref(&mut file).take(BEGINNING as u64).read_to_end(&mut beginning)?;
        if beginning != place.beginning || file.metadata()?.len() < place.offset {
            *place = JournalOffset { offset: 0, beginning };
        }
        file.seek(SeekFrom::Start(place.offset))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // A line that is being written is read the next time.
        let whole = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
        place.offset += whole as u64;
        let lines = text[..whole].split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Opens the file to append, for this process alone, and counts its lines.
    ///
    /// # Errors
    /// `TimedOut` when another process keeps the file locked.
    fn lock(&self) -> io::Result<(File, usize)> {
        let until = Instant::now() + LOCK_DEADLINE;
        loop {
            let mut file = match self.open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    private_files::create_dir_all(self.folder())?;
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
                std::thread::sleep(LOCK_POLL);
            }
            // It may have been replaced while this one waited for it.
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
            // Of an earlier version of this library.
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(file)
    }

    /// Removes the files of scopes in which nothing has happened for long.
    fn sweep(&self) {
        for file in fs::read_dir(self.folder()).into_iter().flatten().flatten() {
            let path = file.path();
            let old = file
                .metadata()
                .and_then(|file| file.modified())
                .is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed > LONGEST_KEPT));
            if old && path.extension().is_some_and(|kind| kind == "lives") {
                // Somebody else may do the same.
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use runtime_core::{ContainerId, ContainerStatus};

    use super::*;

    pub(crate) fn life(number: usize) -> RemovalRecord {
        let id = ContainerId::new(number.to_string());
        RemovalRecord {
            removed_at: SystemTime::now(),
            out_of_memory: false,
            info: ContainerInfo::new(id, "name", ContainerStatus::Exited),
        }
    }

    #[test]
    fn lives_are_read_once_and_the_oldest_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(&folder.path().join("new"), &Scope::new("s").unwrap());
        let mut place = JournalOffset::default();
        assert_eq!(journal.read(&mut place).unwrap(), []);
        let first = life(0);
        journal.write(&first).unwrap();
        assert_eq!(journal.read(&mut place).unwrap(), [first]);
        assert_eq!(journal.read(&mut place).unwrap(), []);
        for number in 1..1000 {
            journal.write(&life(number)).unwrap();
        }
        let all = journal.read(&mut JournalOffset::default()).unwrap();
        assert!(all.len() >= KEPT && all.len() <= 2 * KEPT, "{}", all.len());
        assert_eq!(all.last().unwrap().info.id.as_str(), "999");
        let later = journal.read(&mut place).unwrap();
        assert_eq!(later, all);
        assert_eq!(journal.read(&mut place).unwrap(), []);
    }

    #[test]
    fn journal_that_stays_locked_is_a_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path(), &Scope::new("s").unwrap());
        journal.write(&life(0)).unwrap();
        let file = File::open(&journal.path).unwrap();
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        assert_eq!(journal.write(&life(1)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        // Readers take no lock.
        assert_eq!(journal.read(&mut JournalOffset::default()).unwrap().len(), 1);
        drop(file);
        journal.write(&life(2)).unwrap();
    }

    #[test]
    fn journal_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(&folder.path().join("new"), &Scope::new("s").unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        for number in 0..3 * KEPT {
            journal.write(&life(number)).unwrap();
        }
        assert_eq!((mode(journal.folder()), mode(&journal.path)), (0o700, 0o600));
        fs::set_permissions(&journal.path, Permissions::from_mode(0o644)).unwrap();
        journal.write(&life(0)).unwrap();
        assert_eq!(mode(&journal.path), 0o600);
    }

    #[test]
    fn many_write_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path(), &Scope::new("s").unwrap());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let journal = &journal;
                scope.spawn(move || {
                    for number in 0..50 {
                        journal.write(&life(thread * 50 + number)).unwrap();
                    }
                });
            }
        });
        assert_eq!(journal.read(&mut JournalOffset::default()).unwrap().len(), 200);
    }
}
