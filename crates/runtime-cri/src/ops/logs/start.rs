//! Start of a read: its file and position, and the records to skip.

use std::collections::VecDeque;
use std::io;
use std::time::SystemTime;

use runtime_core::{LogCursor, LogOptions, LogRecord, Result};
use runtime_support::follow::{CursorSearch, Given};

use super::lines::{Lines, Terminal};
use super::next::file_removed;
use super::source::unreadable;
use crate::host::log_files::{self, LogFile, ORDER_SKEW_MAX, Open, Unfinished};
use crate::model::log_directory::LogDirectory;

/// Start of a read.
pub(super) struct Start {
    pub(super) open: Option<Open>,
    /// Inode and length of the last file.
    pub(super) last: Option<(u64, u64)>,
    pub(super) unfinished: Unfinished,
    pub(super) filter: Filter,
}

/// Filter of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filter {
    since: Option<SystemTime>,
    /// Whether records at `since` are excluded.
    exclusive: bool,
    /// Number of further records to skip.
    skip: u64,
    /// Cursor that is in the log: records that were returned before it are skipped.
    after: Option<CursorSearch>,
}

impl Filter {
    /// Returns whether records must be in the order in which their lines began.
    pub(super) fn needs_order(&self) -> bool {
        self.after.is_some_and(|after| after.needs_order())
    }

    /// Returns whether a record is to be returned.
    pub(super) fn accepts(&mut self, record: &mut LogRecord) -> bool {
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
        // A record before the cursor was returned.
        after.look(record) == Given::No
    }
}

/// Number of attempts to plan a start while files are rotated or removed.
const PLAN_ATTEMPTS: usize = 20;

/// Failure of a plan.
enum Unplanned {
    Io(io::Error),
    /// The record of the cursor was removed, with records after it.
    Lost,
}

impl From<io::Error> for Unplanned {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Finds the start of a read. It may block.
///
/// Files are opened one at a time, because a container may have more than a process may open.
pub(super) fn plan_start(
    directory: &LogDirectory,
    options: &LogOptions,
    terminal: Terminal,
    ended: bool,
) -> Result<Start> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let planned = log_files::list(directory).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(Vec::new()),
            _ => Err(error),
        });
        let planned = planned.map_err(Unplanned::Io);
        match planned.and_then(|files| plan(files, options, terminal, ended)) {
            // A file was renamed or removed after it was listed.
            Err(Unplanned::Io(error))
                if error.kind() == io::ErrorKind::NotFound && attempts < PLAN_ATTEMPTS => {}
            Err(Unplanned::Io(error)) => return Err(unreadable(&directory.path)(error)),
            Err(Unplanned::Lost) => return Err(file_removed()),
            Ok(start) => return Ok(start),
        }
    }
}

fn open(file: &LogFile) -> io::Result<Open> {
    Open::listed(file)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn plan(
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
        let time = time.checked_sub(ORDER_SKEW_MAX).unwrap_or(time);
        first = first_with(&files, time)?;
        if let Some(file) = files.get(first) {
            offset = open(file)?.seek_time(time)?;
        }
    } else if let Some(tail) = options.tail {
        // The first line of each stream may have begun before.
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
                let end = after.time.checked_sub(ORDER_SKEW_MAX).unwrap_or(after.time);
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

/// Returns the index of the first file that can have a record of this time or later.
fn first_with(files: &[LogFile], time: SystemTime) -> io::Result<usize> {
    for (at, file) in files.iter().enumerate().skip(1).rev() {
        // All earlier files are older than its first line, except for the skew, which the caller
        // has subtracted.
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

/// Returns the streams with an unfinished line at the start of a read. The rest of such a line is
/// not returned, because its beginning is not read.
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

/// Scan of the current log, to find a position in it. It may block.
struct Scan {
    lines: Lines,
    /// Files that are not read to their end yet.
    files: VecDeque<LogFile>,
    open: Option<Open>,
    /// Position in the first file at which the scan begins.
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
                if self.filter.accepts(&mut record) {
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

    /// Returns whether the record of the cursor is in the log.
    fn has(mut self, cursor: LogCursor) -> io::Result<bool> {
        let mut after = CursorSearch::new(cursor);
        let limit = cursor.time.checked_add(ORDER_SKEW_MAX);
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

    /// Writes files with these numbers, each with the lines of one minute.
    fn written(numbers: &[u64]) -> (tempfile::TempDir, LogDirectory) {
        let temp = tempfile::tempdir().unwrap();
        let directory = LogDirectory::managed(temp.path());
        for number in numbers {
            let text: String = (number * 60..number * 60 + 60).map(line).collect();
            let path = temp.path().join(format!("{LOG_FILE}.{number:010}"));
            fs::write(path, text).unwrap();
        }
        (temp, directory)
    }

    fn after(second: u64) -> LogOptions {
        let time = time_of(line(second).as_bytes()).unwrap();
        LogOptions::default().after(LogCursor::new(time, 1))
    }

    fn plan(directory: &LogDirectory, options: &LogOptions) -> Result<Start> {
        plan_start(directory, options, Terminal::No, true)
    }

    #[test]
    fn cursor_in_removed_file_is_lost() {
        let (_temp, directory) = written(&[3, 4, 5]);
        for second in [1, 60, 179] {
            let error = plan(&directory, &after(second)).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Lost, "{second}");
        }
        for second in [180, 239, 240, 359] {
            plan(&directory, &after(second)).unwrap();
        }
        // No file was removed: the read begins with the next record.
        let (_temp, directory) = written(&[1, 2]);
        let before = after(59).after.map(|after| after.time - Duration::from_secs(3600));
        let before = LogCursor::new(before.unwrap(), 1);
        plan(&directory, &LogOptions::default().after(before)).unwrap();
    }

    #[test]
    fn cursor_in_complete_log_is_found() {
        let (_temp, directory) = written(&[1, 2, 3]);
        let start = plan(&directory, &after(100)).unwrap();
        assert_eq!(start.open.unwrap().number, Some(1));
    }

    #[test]
    fn files_are_not_all_open_at_once() {
        let numbers: Vec<u64> = (1..40).collect();
        let (_temp, directory) = written(&numbers);
        let open_files = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open_files();
        let start = plan(&directory, &LogOptions::default().tail(2000)).unwrap();
        // Other tests open files concurrently.
        assert!(open_files() < before + 25, "all are open at once");
        assert!(start.last.is_some());
    }
}
