//! Where in the files a reader begins, and which records it passes over.

use std::collections::VecDeque;
use std::io;
use std::time::SystemTime;

use runtime_core::{LogCursor, LogOptions, LogRecord, Result};
use runtime_support::follow::{CursorSearch, Given};

use super::lines::{Lines, Terminal};
use super::next::thrown_away;
use super::source::unreadable;
use crate::host::log_files::{self, LogFile, Open, SKEW, Unfinished};
use crate::model::log_directory::LogDirectory;

/// Where and how to begin.
pub(super) struct Start {
    pub(super) open: Option<Open>,
    /// The last file now, by its inode, and its length.
    pub(super) last: Option<(u64, u64)>,
    pub(super) unfinished: Unfinished,
    pub(super) filter: Filter,
}

/// Which records are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filter {
    since: Option<SystemTime>,
    /// Whether `since` itself is not wanted.
    exclusive: bool,
    /// How many of those are passed over first.
    skip: u64,
    /// A place in the log, which is there: what was given before it is passed over.
    after: Option<CursorSearch>,
}

impl Filter {
    /// Whether records have to come in the order in which their lines began.
    pub(super) fn needs_order(&self) -> bool {
        self.after.is_some_and(|after| after.needs_order())
    }

    pub(super) fn lets_pass(&mut self, record: &mut LogRecord) -> bool {
        if self
            .since
            .is_some_and(|since| record.time < since || (self.exclusive && record.time == since))
        {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let Some(after) = &mut self.after else { return true };
        // A later record that stands before the place was returned.
        after.look(record) == Given::No
    }
}

/// How often it is planned anew because files are rotated or removed meanwhile.
const PLAN_TRIES: usize = 20;

/// Why there is no plan.
enum Unplanned {
    Io(io::Error),
    /// What the cursor stands behind was removed, and with it what came after.
    Lost,
}

impl From<io::Error> for Unplanned {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Finds the place to begin at. It may block.
///
/// Files are opened one at a time, because a container may have more than a process may open.
pub(super) fn plan_start(
    directory: &LogDirectory,
    options: &LogOptions,
    terminal: Terminal,
    ended: bool,
) -> Result<Start> {
    let mut tries = 0;
    loop {
        tries += 1;
        let planned = log_files::list(directory).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(Vec::new()),
            _ => Err(error),
        });
        let planned = planned.map_err(Unplanned::Io);
        match planned.and_then(|files| place(files, options, terminal, ended)) {
            // A file that was listed has another name now, or is gone.
            Err(Unplanned::Io(error))
                if error.kind() == io::ErrorKind::NotFound && tries < PLAN_TRIES => {}
            Err(Unplanned::Io(error)) => return Err(unreadable(&directory.path)(error)),
            Err(Unplanned::Lost) => return Err(thrown_away()),
            Ok(start) => return Ok(start),
        }
    }
}

fn open(file: &LogFile) -> io::Result<Open> {
    Open::listed(file)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn place(
    mut files: Vec<LogFile>,
    options: &LogOptions,
    terminal: Terminal,
    ended: bool,
) -> std::result::Result<Start, Unplanned> {
    let last = match files.last() {
        Some(last) => Some((last.inode, open(last)?.metadata()?.len())),
        None => None,
    };
    let mut filter = Filter { since: options.since, exclusive: false, skip: 0, after: None };
    let mut first = 0;
    let mut offset = 0;
    if let Some(time) = options.since.or(options.after.map(CursorSearch::begin)) {
        let time = time.checked_sub(SKEW).unwrap_or(time);
        first = first_with(&files, time)?;
        if let Some(file) = files.get(first) {
            offset = open(file)?.seek_time(time)?;
        }
    } else if let Some(tail) = options.tail {
        // The first line of each stream can be one that began before.
        (first, offset) = tail_start(&files, tail.saturating_add(2))?;
    }
    let unfinished = unfinished_at(&files, first, offset)?;
    let some_were_removed = files.first().is_some_and(|file| file.number != Some(1));
    files.drain(..first);
    let files = VecDeque::from(files);
    let scan = |filter: Filter| Scan {
        lines: Lines::new(terminal, options.max_line, unfinished),
        files: files.clone(),
        open: None,
        offset,
        end: last.map(|(_, end)| end),
        ended,
        filter,
        finished: false,
    };
    if let Some(after) = options.after.filter(|after| *after == LogCursor::new(after.time, 0)) {
        filter.since = Some(after.time);
    } else if let Some(after) = options.after {
        match scan(filter).has(after)? {
            true => filter.after = Some(CursorSearch::new(after)),
            false if after.records > 0 && some_were_removed && first == 0 => {
                let oldest = match files.front() {
                    Some(file) => open(file)?.first_time()?,
                    None => None,
                };
                let end = after.time.checked_sub(SKEW).unwrap_or(after.time);
                if oldest.is_none_or(|oldest| oldest > end) {
                    return Err(Unplanned::Lost);
                }
                filter = Filter { since: Some(after.time), exclusive: true, skip: 0, after: None };
            }
            false => {
                filter = Filter { since: Some(after.time), exclusive: true, skip: 0, after: None }
            }
        }
    } else if let Some(tail) = options.tail {
        filter.skip = scan(filter).count()?.saturating_sub(tail);
    }
    let mut begin = match files.front() {
        Some(file) => Some(open(file)?),
        None => None,
    };
    if let Some(begin) = &mut begin {
        begin.offset = offset;
    }
    Ok(Start { open: begin, last, unfinished, filter })
}

/// The first file that can have a record of this time or later.
fn first_with(files: &[LogFile], time: SystemTime) -> io::Result<usize> {
    for (at, file) in files.iter().enumerate().skip(1).rev() {
        // All before it is older than what it begins with, but for the skew, which the caller
        // has taken off.
        if open(file)?.first_time()?.is_some_and(|first| first <= time) {
            return Ok(at);
        }
    }
    Ok(0)
}

fn tail_start(files: &[LogFile], tail: u64) -> io::Result<(usize, u64)> {
    let mut wanted = tail;
    for (at, file) in files.iter().enumerate().rev() {
        match open(file)?.seek_tail(wanted)? {
            Ok(offset) => return Ok((at, offset)),
            Err(found) => wanted -= found,
        }
    }
    Ok((0, 0))
}

/// Which streams are in the middle of a line where the reading begins: the head of that line is
/// not read, and so the rest of it is not given.
fn unfinished_at(files: &[LogFile], first: usize, offset: u64) -> io::Result<Unfinished> {
    if offset > 0 {
        return match files.get(first) {
            Some(file) => open(file)?.unfinished_before(offset),
            None => Ok(Unfinished::default()),
        };
    }
    match first.checked_sub(1).and_then(|before| files.get(before)) {
        Some(before) => {
            let before = open(before)?;
            before.unfinished_before(before.metadata()?.len())
        }
        None => Ok(Unfinished::default()),
    }
}

/// Reads the log as it is, to find a place in it. It may block.
struct Scan {
    lines: Lines,
    /// What is not read yet, with the file that is open.
    files: VecDeque<LogFile>,
    open: Option<Open>,
    /// Where in the first file the reading begins.
    offset: u64,
    end: Option<u64>,
    ended: bool,
    filter: Filter,
    finished: bool,
}

impl Scan {
    fn next(&mut self) -> io::Result<Option<LogRecord>> {
        loop {
            if let Some(mut record) = self.lines.next() {
                if self.filter.lets_pass(&mut record) {
                    return Ok(Some(record));
                }
                continue;
            }
            let last = self.files.len() <= 1;
            let rest = self.lines.parser.take_rest();
            if self.open.is_none()
                && let Some(file) = self.files.front()
            {
                let mut file = open(file)?;
                file.offset = std::mem::take(&mut self.offset);
                self.open = Some(file);
            }
            let Some(file) = &mut self.open else {
                self.lines.parser.feed(rest);
                if self.finished {
                    return Ok(None);
                }
                self.finished = true;
                if self.ended {
                    self.lines.finish();
                } else {
                    self.lines.let_pass();
                }
                continue;
            };
            match file.read(rest, self.end.filter(|_| last))? {
                Ok(block) => self.lines.parser.feed(block),
                Err(rest) => {
                    self.lines.parser.feed(rest);
                    self.files.pop_front();
                    self.open = None;
                }
            }
        }
    }

    fn count(mut self) -> io::Result<u64> {
        let mut count = 0;
        while self.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Whether the record that the cursor stands behind is in the log.
    fn has(mut self, cursor: LogCursor) -> io::Result<bool> {
        let mut after = CursorSearch::new(cursor);
        let limit = cursor.time.checked_add(SKEW);
        while let Some(mut record) = self.next()? {
            after.look(&mut record);
            if after.is_found() {
                return Ok(true);
            }
            if limit.is_some_and(|limit| record.time > limit) {
                break;
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use runtime_core::ErrorKind;

    use super::*;
    use crate::model::log_directory::LOG_FILE;
    use crate::model::log_format::time_of;

    fn line(second: u64) -> String {
        format!("2026-11-23T16:{:02}:{:02}.5Z stdout F {second}\n", second / 60, second % 60)
    }

    /// Files with these numbers, each with the lines of a minute of its own.
    fn written(numbers: &[u64]) -> (tempfile::TempDir, LogDirectory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = LogDirectory::managed(folder.path());
        for number in numbers {
            let text: String = (number * 60..number * 60 + 60).map(line).collect();
            let path = folder.path().join(format!("{LOG_FILE}.{number:010}"));
            fs::write(path, text).unwrap();
        }
        (folder, directory)
    }

    fn after(second: u64) -> LogOptions {
        let time = time_of(line(second).as_bytes()).unwrap();
        LogOptions::default().after(LogCursor::new(time, 1))
    }

    fn plan(directory: &LogDirectory, options: &LogOptions) -> Result<Start> {
        plan_start(directory, options, Terminal::No, true)
    }

    #[test]
    fn cursor_in_a_file_that_was_removed_is_lost() {
        let (_folder, directory) = written(&[3, 4, 5]);
        for second in [1, 60, 179] {
            let error = plan(&directory, &after(second)).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Lost, "{second}");
        }
        for second in [180, 239, 240, 359] {
            plan(&directory, &after(second)).unwrap();
        }
        // Nothing was removed: it begins with what comes after.
        let (_folder, directory) = written(&[1, 2]);
        let before = after(59).after.map(|after| after.time - Duration::from_secs(3600));
        let before = LogCursor::new(before.unwrap(), 1);
        plan(&directory, &LogOptions::default().after(before)).unwrap();
    }

    #[test]
    fn cursor_in_a_log_without_files_that_were_removed_is_found() {
        let (_folder, directory) = written(&[1, 2, 3]);
        let start = plan(&directory, &after(100)).unwrap();
        assert_eq!(start.open.unwrap().number, Some(1));
    }

    #[test]
    fn more_files_than_a_process_may_open_are_read() {
        let numbers: Vec<u64> = (1..40).collect();
        let (_folder, directory) = written(&numbers);
        let open_files = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open_files();
        let start = plan(&directory, &LogOptions::default().tail(2000)).unwrap();
        // Other tests open some meanwhile.
        assert!(open_files() < before + 25, "all are open at once");
        assert!(start.last.is_some());
    }
}
