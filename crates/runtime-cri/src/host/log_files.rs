//! Log files of a container: the current file and the rotated files.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use memchr::{memchr, memrchr};
use runtime_core::LogStream;
use rustix::buffer::spare_capacity;

use crate::model::log_directory::LogDirectory;
use crate::model::log_format::{tag_of, time_of};

/// Maximum size of a block that is read at once.
const BLOCK_BYTES_MAX: usize = 512 << 10;

/// Size of a block that is searched for lines.
const PROBE_BYTES: usize = 64 << 10;

/// Number of attempts to list a directory whose files are being rotated.
const LIST_ATTEMPTS: usize = 100;

/// Maximum difference between the times of two lines in the wrong order. The engine sets the time
/// of a line before it acquires the lock of the file.
pub(crate) const ORDER_SKEW_MAX: Duration = Duration::from_secs(2);

/// Listed log file.
#[derive(Debug, Clone)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    pub(crate) inode: u64,
    /// Sequence number of the file, from 1 on: the number in its name, or the number that the
    /// current file will get. `None` if this library did not rotate the file.
    pub(crate) number: Option<u64>,
}

/// Returns the number at the end of the name of a file that this library rotated.
fn number(path: &Path) -> Option<u64> {
    path.extension()?.to_str()?.parse().ok()
}

/// Lists the files of a container from the oldest to the current.
pub(crate) fn list(directory: &LogDirectory) -> io::Result<Vec<LogFile>> {
    let current = || match fs::metadata(directory.current()) {
        Ok(file) => Ok(Some(file.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    // A file that is renamed during the list may be missed under both of its names.
    for _ in 0..LIST_ATTEMPTS {
        let before = current()?;
        let files = list_once(directory)?;
        if current()? == before {
            return Ok(files);
        }
    }
    Err(io::Error::other("the log files were rotated during every attempt to list them"))
}

fn list_once(directory: &LogDirectory) -> io::Result<Vec<LogFile>> {
    let mut rotated = Vec::new();
    let mut current = None;
    for entry in fs::read_dir(&directory.path)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some(suffix) = name.strip_prefix(directory.file_name()) else { continue };
        let inode = match fs::metadata(entry.path()) {
            Ok(file) => file.ino(),
            // It was rotated or removed after it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let path = entry.path();
        let file = LogFile { number: number(&path), path, inode };
        if suffix.is_empty() {
            current = Some(file);
        } else if is_rotated(suffix) {
            rotated.push(file);
        }
    }
    rotated.sort_by(|a, b| a.path.cmp(&b.path));
    // A file that was renamed in between would be listed twice.
    current = current.filter(|current| rotated.iter().all(|file| file.inode != current.inode));
    let newest = rotated.last().map_or(Some(0), |file| file.number);
    rotated.extend(current.map(|file| LogFile { number: newest.map(|number| number + 1), ..file }));
    Ok(rotated)
}

/// Returns whether a suffix is a number of this library or a time of the kubelet, which both sort
/// by name. Compressed files have another suffix.
fn is_rotated(suffix: &str) -> bool {
    suffix.strip_prefix('.').is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
    })
}

/// Open file, and the position in it.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    file: Arc<File>,
    pub(crate) path: PathBuf,
    pub(crate) inode: u64,
    /// See [`LogFile::number`].
    pub(crate) number: Option<u64>,
    pub(crate) offset: u64,
    block: usize,
}

impl Open {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        let (file, path) = (Arc::new(file), path.to_owned());
        Ok(Self { file, path, inode, number: None, offset: 0, block: 16 << 10 })
    }

    /// Returns the current name of the file, or its name when it was removed.
    pub(crate) fn name_now(&self) -> Option<OsString> {
        let path = fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd())).ok()?;
        let name = path.file_name()?.as_bytes();
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        Some(OsStr::from_bytes(name).to_owned())
    }

    /// Opens a listed file. Returns `None` if it was rotated or removed since then.
    pub(crate) fn listed(listed: &LogFile) -> io::Result<Option<Self>> {
        match Self::new(&listed.path) {
            Ok(open) if open.inode == listed.inode => {
                Ok(Some(Self { number: listed.number, ..open }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn metadata(&self) -> io::Result<fs::Metadata> {
        self.file.metadata()
    }

    /// Returns the next block, with `rest` before it, or `rest` as the error at the end of the
    /// file.
    pub(crate) fn read(
        &mut self,
        rest: Bytes,
        end: Option<u64>,
    ) -> io::Result<Result<Bytes, Bytes>> {
        let room = match end {
            Some(end) => usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        if room == 0 {
            return Ok(Err(rest));
        }
        let want = self.block.min(room);
        let mut buffer = Vec::with_capacity(rest.len() + want);
        buffer.extend_from_slice(&rest);
        let read = loop {
            match rustix::io::pread(&*self.file, spare_capacity(&mut buffer), self.offset) {
                Err(rustix::io::Errno::INTR) => {}
                done => break done?,
            }
        };
        let read = read.min(room);
        buffer.truncate(rest.len() + read);
        if read == 0 {
            return Ok(Err(rest));
        }
        self.offset += read as u64;
        if read == want {
            self.block = (self.block * 2).min(BLOCK_BYTES_MAX);
        }
        Ok(Ok(Bytes::from(buffer)))
    }

    /// Returns whether the file was truncated below the position.
    pub(crate) fn is_truncated(&self) -> io::Result<bool> {
        Ok(self.metadata()?.len() < self.offset)
    }

    fn probe(&self, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut buffer = Vec::with_capacity(size);
        rustix::io::pread(&*self.file, spare_capacity(&mut buffer), offset)?;
        buffer.truncate(size);
        Ok(buffer)
    }

    /// Returns the time of the first line.
    pub(crate) fn first_time(&self) -> io::Result<Option<SystemTime>> {
        Ok(time_of(&self.probe(0, PROBE_BYTES)?))
    }

    /// Returns the position of a line such that all lines before it are older than `time`.
    pub(crate) fn seek_time(&self, time: SystemTime) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.metadata()?.len());
        while high - low > PROBE_BYTES as u64 {
            let middle = low + (high - low) / 2;
            let block = self.probe(middle, PROBE_BYTES)?;
            let line = memchr(b'\n', &block).map(|end| end + 1);
            let found = line.and_then(|line| Some((line, time_of(block.get(line..)?)?)));
            match found {
                Some((line, at)) if at < time => low = middle + line as u64,
                // If no line is found here, the search continues before it.
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// Returns the position of a line after which at least `count` lines end, or, as the error, the
    /// number of lines that end in the whole file.
    pub(crate) fn seek_tail(&self, count: u64) -> io::Result<Result<u64, u64>> {
        let mut found = 0;
        let mut end = self.metadata()?.len();
        // The beginning of the later block, up to its first line end.
        let mut rest: Vec<u8> = Vec::new();
        while end > 0 {
            let size = end.min(BLOCK_BYTES_MAX as u64);
            let start = end - size;
            let mut block = self.probe(start, usize::try_from(size).unwrap_or(BLOCK_BYTES_MAX))?;
            // Only as much as the head of a line needs.
            block.extend_from_slice(&rest[..rest.len().min(PROBE_BYTES)]);
            let mut upto = usize::try_from(size).unwrap_or(block.len());
            while let Some(at) = memrchr(b'\n', &block[..upto]) {
                if tag_of(&block[at + 1..]).is_some_and(|(_, ends)| ends) {
                    found += 1;
                    if found >= count {
                        return Ok(Ok(start + at as u64 + 1));
                    }
                }
                upto = at;
            }
            let first = memchr(b'\n', &block).map_or(block.len(), |at| at + 1);
            if start == 0 && tag_of(&block).is_some_and(|(_, ends)| ends) {
                found += 1;
                if found >= count {
                    return Ok(Ok(0));
                }
            }
            rest = block[..first].to_vec();
            end = start;
        }
        Ok(Err(found))
    }

    /// Returns the streams with an unfinished line at this position.
    pub(crate) fn unfinished_before(&self, offset: u64) -> io::Result<Unfinished> {
        let size = offset.min(PROBE_BYTES as u64);
        let size_here = usize::try_from(size).unwrap_or(PROBE_BYTES);
        let block = self.probe(offset - size, size_here)?;
        let mut out = Unfinished::default();
        let mut known = [false; 2];
        let mut upto = block.len();
        while upto > 0 && known != [true; 2] {
            let begin = memrchr(b'\n', &block[..upto - 1]).map_or(0, |at| at + 1);
            match tag_of(&block[begin..upto]) {
                Some((LogStream::Stdout, ends)) if !known[0] => {
                    (known[0], out.stdout) = (true, !ends);
                }
                Some((LogStream::Stderr, ends)) if !known[1] => {
                    (known[1], out.stderr) = (true, !ends);
                }
                _ => {}
            }
            upto = begin;
        }
        Ok(out)
    }
}

/// Streams with an unfinished line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Unfinished {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::model::log_directory::LOG_FILE;

    fn line(number: u64, stream: &str, tag: char, text: &str) -> String {
        format!(
            "2026-11-23T16:{:02}:{:02}.5Z {stream} {tag} {text}\n",
            number / 60 % 60,
            number % 60
        )
    }

    fn open(text: &str) -> (tempfile::TempDir, Open) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join(LOG_FILE);
        fs::write(&path, text).unwrap();
        let open = Open::new(&path).unwrap();
        (temp, open)
    }

    fn time(number: u64) -> SystemTime {
        time_of(line(number, "stdout", 'F', "x").as_bytes()).unwrap()
    }

    #[test]
    fn list_is_in_order_of_age() {
        let temp = tempfile::tempdir().unwrap();
        for name in [
            "container.log",
            "container.log.0000000010",
            "container.log.0000000009",
            "container.log.0000000001.gz",
            "container.log.tmp",
            "stopped",
        ] {
            fs::write(temp.path().join(name), "").unwrap();
        }
        let names: Vec<_> = list(&LogDirectory::managed(temp.path()))
            .unwrap()
            .into_iter()
            .map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            ["container.log.0000000009", "container.log.0000000010", "container.log"]
        );
        let numbers = |path: &Path| -> Vec<_> {
            let files = list(&LogDirectory::managed(path)).unwrap();
            files.into_iter().map(|file| file.number).collect()
        };
        assert_eq!(numbers(temp.path()), [Some(9), Some(10), Some(11)]);
        // A file that a kubelet rotated.
        fs::write(temp.path().join("container.log.20261123-160000"), "").unwrap();
        assert_eq!(numbers(temp.path()), [Some(9), Some(10), None, None]);
    }

    #[test]
    fn name_now_of_removed_file_is_its_last_name() {
        let (temp, open) = open("x");
        assert_eq!(open.name_now().unwrap(), LOG_FILE);
        let rotated = temp.path().join("container.log.0000000001");
        fs::rename(&open.path, &rotated).unwrap();
        fs::remove_dir_all(temp.path()).unwrap();
        assert_eq!(open.name_now().unwrap(), "container.log.0000000001");
        let directory = LogDirectory::managed(temp.path());
        assert!(!directory.is_current(&open.name_now().unwrap()));
        assert!(directory.is_current(OsStr::new(LOG_FILE)));
    }

    #[test]
    fn list_of_kubelet_directory_has_only_its_files() {
        let temp = tempfile::tempdir().unwrap();
        let directory = LogDirectory::kubelet(temp.path(), "0.log");
        for name in [
            "0.log",
            "0.log.20261123-160000",
            "0.log.20261123-155900.gz",
            "0.log.20261123-155950.tmp",
            "1.log",
            "container.log",
        ] {
            fs::write(temp.path().join(name), "").unwrap();
        }
        let files = list(&directory).unwrap();
        let names: Vec<_> = files.iter().filter_map(|file| file.path.file_name()).collect();
        assert_eq!(names, ["0.log.20261123-160000", "0.log"]);
        assert_eq!(files[1].path, directory.current());
        assert!(!directory.keeps_all() && LogDirectory::managed(temp.path()).keeps_all());
    }

    #[test]
    fn read_stops_at_the_given_end() {
        let (_temp, mut open) = open(&"x".repeat(100_000));
        let mut read = 0;
        let mut rest = Bytes::new();
        while let Ok(block) = open.read(rest.clone(), Some(70_000)).unwrap() {
            read += block.len() - rest.len();
            rest = block.slice(block.len() - 3..);
        }
        assert_eq!(read, 70_000);
        assert!(!open.is_truncated().unwrap());
        fs::write(&open.path, "x").unwrap();
        assert!(open.is_truncated().unwrap());
    }

    #[test]
    fn seek_time_stops_before_the_time() {
        let pad = "x".repeat(500);
        let text: String = (0..3000).map(|n| line(n, "stdout", 'F', &pad)).collect();
        let (_temp, open) = open(&text);
        for number in [0, 1, 500, 1500, 2999, 5000] {
            let at = open.seek_time(time(number)).unwrap();
            let at = usize::try_from(at).unwrap();
            assert!(at == 0 || text.as_bytes()[at - 1] == b'\n');
            let before = text[..at].lines().last().and_then(|line| time_of(line.as_bytes()));
            assert!(before.is_none_or(|before| before < time(number)), "{number}");
            assert!(text.len() - at < text.len() || number == 0 || number == 1);
        }
        assert_eq!(open.seek_time(UNIX_EPOCH).unwrap(), 0);
    }

    #[test]
    fn seek_tail_returns_at_least_the_count() {
        let text: String = (0..3000)
            .map(|n| {
                let tag = if n % 3 == 0 { 'P' } else { 'F' };
                line(n, "stdout", tag, &"y".repeat(usize::try_from(n % 700).unwrap()))
            })
            .collect();
        let (_temp, open) = open(&text);
        for count in [1_u64, 2, 10, 1000, 1999, 2000] {
            let at = open.seek_tail(count).unwrap().unwrap();
            let tail = &text[usize::try_from(at).unwrap()..];
            let ends = tail.lines().filter(|line| line.contains(" stdout F ")).count() as u64;
            assert_eq!(ends, count);
        }
        assert_eq!(open.seek_tail(2001).unwrap(), Err(2000));
    }

    #[test]
    fn unfinished_before_finds_partial_lines() {
        let text = line(1, "stdout", 'P', "a") + &line(2, "stderr", 'F', "b");
        let (_temp, open) = open(&text);
        let end = text.len() as u64;
        let found = open.unfinished_before(end).unwrap();
        assert_eq!(found, Unfinished { stdout: true, stderr: false });
        assert_eq!(open.unfinished_before(0).unwrap(), Unfinished::default());
    }
}
