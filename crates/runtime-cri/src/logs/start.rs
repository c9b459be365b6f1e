//! Where in the files a reader begins, and which records it passes over.

use std::collections::VecDeque;
use std::io;
use std::time::SystemTime;

use runtime_core::{LogCursor, LogOptions, LogRecord, Result};

use super::lines::{Lines, Terminal};
use super::unreadable;
use crate::logfiles::{self, Open, Place, SKEW, Unfinished};

/// Where and how to begin.
pub(super) struct Start {
    pub(super) open: Option<Open>,
    /// What comes after the file that is open.
    pub(super) files: VecDeque<Open>,
    /// The length of the last file now.
    pub(super) end: Option<u64>,
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
}

impl Filter {
    pub(super) fn lets_pass(&mut self, record: &LogRecord) -> bool {
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
        true
    }
}

/// Finds the place to begin at. It may block.
pub(super) fn plan_start(
    at: &Place,
    options: &LogOptions,
    terminal: Terminal,
    ended: bool,
) -> Result<Start> {
    let mut files = match open_all(at) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(unreadable(&at.folder)(error)),
    };
    place(&mut files, options, terminal, ended).map_err(unreadable(&at.folder))
}

/// Opens them all, so that what is planned cannot vanish.
fn open_all(at: &Place) -> io::Result<Vec<Open>> {
    let mut tries = 0;
    loop {
        let files = logfiles::list(at)?;
        let mut open = Vec::with_capacity(files.len());
        for file in &files {
            match Open::listed(file)? {
                Some(found) => open.push(found),
                None => break,
            }
        }
        if open.len() == files.len() {
            return Ok(open);
        }
        tries += 1;
        if tries >= 20 {
            return Err(io::Error::other("the log files are rotated again and again"));
        }
    }
}

fn place(
    files: &mut Vec<Open>,
    options: &LogOptions,
    terminal: Terminal,
    ended: bool,
) -> io::Result<Start> {
    let end = match files.last() {
        Some(last) => Some(last.metadata()?.len()),
        None => None,
    };
    let mut filter = Filter { since: options.since, exclusive: false, skip: 0 };
    let mut first = 0;
    let mut offset = 0;
    if let Some(time) = options.since.or(options.after.map(|after| after.time)) {
        let time = time.checked_sub(SKEW).unwrap_or(time);
        first = first_with(files, time)?;
        if let Some(file) = files.get(first) {
            offset = file.seek_time(time)?;
        }
    } else if let Some(tail) = options.tail {
        // The first line of each stream can be one that began before.
        (first, offset) = tail_start(files, tail.saturating_add(2))?;
    }
    let unfinished = unfinished_at(files, first, offset)?;
    files.drain(..first);
    let mut files = VecDeque::from(std::mem::take(files));
    if let Some(file) = files.front_mut() {
        file.offset = offset;
    }
    let scan = |filter: Filter| Scan {
        lines: Lines::new(terminal, options.max_line, unfinished),
        files: files.clone(),
        end,
        ended,
        filter,
        finished: false,
    };
    if let Some(after) = options.after {
        match scan(filter).position_after(after)? {
            Some(position) => filter.skip = position,
            None => filter = Filter { since: Some(after.time), exclusive: true, skip: 0 },
        }
    } else if let Some(tail) = options.tail {
        filter.skip = scan(filter).count()?.saturating_sub(tail);
    }
    Ok(Start { open: files.pop_front(), files, end, unfinished, filter })
}

/// The first file that can have a record of this time or later.
fn first_with(files: &[Open], time: SystemTime) -> io::Result<usize> {
    for (at, file) in files.iter().enumerate().skip(1).rev() {
        // All before it is older than what it begins with, but for the skew, which the caller
        // has taken off.
        if file.first_time()?.is_some_and(|first| first <= time) {
            return Ok(at);
        }
    }
    Ok(0)
}

fn tail_start(files: &[Open], tail: u64) -> io::Result<(usize, u64)> {
    let mut wanted = tail;
    for (at, file) in files.iter().enumerate().rev() {
        match file.seek_tail(wanted)? {
            Ok(offset) => return Ok((at, offset)),
            Err(found) => wanted -= found,
        }
    }
    Ok((0, 0))
}

/// Which streams are in the middle of a line where the reading begins: the head of that line is
/// not read, and so the rest of it is not given.
fn unfinished_at(files: &[Open], first: usize, offset: u64) -> io::Result<Unfinished> {
    if offset > 0 {
        return files.get(first).map_or(Ok(Unfinished::default()), |f| f.unfinished_before(offset));
    }
    match first.checked_sub(1).and_then(|before| files.get(before)) {
        Some(before) => before.unfinished_before(before.metadata()?.len()),
        None => Ok(Unfinished::default()),
    }
}

/// Reads the log as it is, to find a place in it. It may block.
struct Scan {
    lines: Lines,
    files: VecDeque<Open>,
    end: Option<u64>,
    ended: bool,
    filter: Filter,
    finished: bool,
}

impl Scan {
    fn next(&mut self) -> io::Result<Option<LogRecord>> {
        loop {
            if let Some(record) = self.lines.next() {
                if self.filter.lets_pass(&record) {
                    return Ok(Some(record));
                }
                continue;
            }
            let last = self.files.len() <= 1;
            let rest = self.lines.parser.take_rest();
            let Some(file) = self.files.front_mut() else {
                self.lines.parser.feed(rest);
                if self.finished {
                    return Ok(None);
                }
                self.finished = true;
                if !self.ended {
                    return Ok(None);
                }
                self.lines.finish();
                continue;
            };
            match file.read(rest, self.end.filter(|_| last))? {
                Ok(block) => self.lines.parser.feed(block),
                Err(rest) => {
                    self.lines.parser.feed(rest);
                    self.files.pop_front();
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

    /// How many records there are up to and with the one that the cursor stands behind.
    fn position_after(mut self, cursor: LogCursor) -> io::Result<Option<u64>> {
        let (mut position, mut same) = (0, 0);
        while let Some(record) = self.next()? {
            position += 1;
            if record.time == cursor.time {
                same += 1;
                if same == cursor.records {
                    return Ok(Some(position));
                }
            } else if record.time > cursor.time + SKEW {
                break;
            }
        }
        Ok(None)
    }
}
