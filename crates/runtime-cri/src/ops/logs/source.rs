//! Blocks of the log files of a container, in order.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use runtime_core::{Error, ErrorKind, ExitReason, Result};
use runtime_support::backend::closed;

use super::next::{Reading, file_removed, following};
use crate::host::blocking::run_blocking;
use crate::host::directory_watcher::{DirectoryWatch, WatchMode};
use crate::host::log_files::{self, Open};
use crate::host::peer::Peer;
use crate::model::container::CriContainer;
use crate::model::info;
use crate::model::log_directory::LogDirectory;
use crate::state::CriBackend;
use crate::state::connection::Connection;

/// Maximum time for the engine to write output that it has already read.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Delay between two checks of a directory that cannot be watched.
const UNWATCHED_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Delay between two checks of a watched directory.
const WATCHED_POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Result of a fetch.
pub(super) enum Fetched {
    Block(Bytes),
    /// The end of the log. `ended` is true if the container has exited.
    End {
        rest: Bytes,
        ended: bool,
    },
}

/// Source of the blocks.
pub(super) struct Source {
    pub(super) backend: Arc<CriBackend>,
    pub(super) container: CriContainer,
    pub(super) directory: LogDirectory,
    pub(super) open: Option<Open>,
    /// Inode and length of the last file at the start of the read.
    pub(super) last: Option<(u64, u64)>,
    pub(super) follow: bool,
    /// Whether the container has exited.
    pub(super) ended: bool,
    /// Time of the exit, if known.
    pub(super) ended_at: Option<SystemTime>,
    /// Whether the engine has opened a log.
    pub(super) has_written: bool,
    pub(super) exit: Option<WatchedExit>,
    pub(super) watch: Option<DirectoryWatch>,
    /// Whether the file was truncated since the last fetch. The next block is from its beginning.
    pub(super) was_truncated: bool,
}

/// Exit of the container: its time, if known, and whether the process has run.
type WatchedExit = BoxFuture<'static, Result<(Option<SystemTime>, bool)>>;

/// Step after the end of a file.
enum Next {
    File(Open),
    /// The next file was renamed after it was listed.
    Again,
    Nothing,
}

impl Source {
    pub(super) async fn fetch(mut self, rest: Bytes) -> (Self, Result<Fetched>) {
        let fetched = self.next_block(rest).await;
        (self, fetched)
    }

    async fn next_block(&mut self, mut rest: Bytes) -> Result<Fetched> {
        loop {
            if self.backend.connection.context.closed.is_cancelled() {
                return Err(closed());
            }
            if let Some(watch) = &mut self.watch {
                // Later events complete the wait below.
                watch.clear();
            }
            rest = match self.read(rest).await? {
                Ok(block) => return Ok(Fetched::Block(block)),
                Err(rest) => rest,
            };
            if !self.follow {
                let open = self.open.as_ref().map(|open| open.inode);
                if open == self.last.map(|(inode, _)| inode) {
                    return Ok(Fetched::End { rest, ended: self.ended });
                }
                match self.next_file().await? {
                    Next::File(next) => self.open = Some(next),
                    // It was rotated after it was listed.
                    Next::Again => {}
                    Next::Nothing => return Err(file_removed()),
                }
                continue;
            }
            if self.watch.is_none() {
                self.watch = self.backend.watcher.watch(&self.directory.path, WatchMode::Write);
                if self.watch.is_some() {
                    // Read again what was written before the watch.
                    rest = match self.read(rest).await? {
                        Ok(block) => return Ok(Fetched::Block(block)),
                        Err(rest) => rest,
                    };
                }
            }
            // Set before the file was read to its end, so that no output can follow.
            let ended = self.ended;
            match self.next_file().await? {
                Next::File(next) => {
                    // The engine may still have output for the old file.
                    self.settle().await?;
                    rest = match self.read(rest).await? {
                        Ok(block) => return Ok(Fetched::Block(block)),
                        Err(rest) => rest,
                    };
                    self.open = Some(next);
                }
                Next::Nothing if ended => {
                    self.settle().await?;
                    rest = match self.read(rest).await? {
                        Ok(block) => return Ok(Fetched::Block(block)),
                        Err(rest) => rest,
                    };
                    match self.next_file().await? {
                        Next::File(next) => {
                            self.open = Some(next);
                            continue;
                        }
                        Next::Again => continue,
                        Next::Nothing => {}
                    }
                    return Ok(Fetched::End { rest, ended: true });
                }
                Next::Again => {}
                Next::Nothing => self.wait().await?,
            }
        }
    }

    /// Reads the next block of the open file.
    async fn read(&mut self, rest: Bytes) -> Result<Result<Bytes, Bytes>> {
        let Some(mut open) = self.open.clone() else { return Ok(Err(rest)) };
        let follow = self.follow;
        let last = self.last.filter(|(inode, _)| !follow && *inode == open.inode);
        let end = last.map(|(_, end)| end);
        let (open, read, was_truncated) = run_blocking(move || {
            let path = open.path.clone();
            let read = if follow {
                read_or_restart(&mut open, rest, end)
            } else {
                open.read(rest, end).map(|read| (read, false))
            };
            let (read, was_truncated) = read.map_err(unreadable(&path))?;
            if was_truncated {
                tracing::warn!(path = %path.display(), "a log file was truncated: reading it again");
            }
            Ok((open, read, was_truncated))
        })
        .await?;
        self.open = Some(open);
        self.was_truncated |= was_truncated;
        Ok(read)
    }

    /// Returns the file after the open one.
    async fn next_file(&mut self) -> Result<Next> {
        let (directory, open) = (self.directory.clone(), self.open.clone());
        let may_be_empty = !(self.ended && self.has_written);
        run_blocking(move || {
            let open = open.map(|open| Reading {
                inode: open.inode,
                number: open.number,
                is_current: open.name_now().is_none_or(|name| directory.is_current(&name)),
            });
            let files = match log_files::list(&directory) {
                Ok(files) => files,
                // The directory was removed, with the container or before it. The current file was
                // the last.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let is_whole = open.map_or(may_be_empty, |open| open.is_current);
                    return if is_whole { Ok(Next::Nothing) } else { Err(file_removed()) };
                }
                Err(error) => return Err(unreadable(&directory.path)(error)),
            };
            let Some(next) = following(&directory, &files, open)? else { return Ok(Next::Nothing) };
            // If it was rotated after it was listed, the next list has its new name.
            let next = Open::listed(next).map_err(unreadable(&next.path))?;
            Ok(next.map_or(Next::Again, Next::File))
        })
        .await
    }

    /// Waits until the engine has written all output for the open file.
    fn settle(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let (peer, open) = (self.backend.connection.client.peer().clone(), self.open.clone());
        let ended_at = self.ended_at;
        async move {
            match open {
                Some(open) => settle(&peer, &open, ended_at).await,
                None => Ok(()),
            }
        }
    }

    /// Waits for a change of the directory or for the exit of the container.
    async fn wait(&mut self) -> Result<()> {
        let exit = self.exit.get_or_insert_with(|| {
            let (backend, id) = (Arc::clone(&self.backend), self.container.id.clone());
            Box::pin(async move {
                match backend.exits.wait(&id).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok((None, false)),
                    done => done.map(|exit| {
                        let never_ran =
                            matches!(exit.reason, ExitReason::StartFailed | ExitReason::Removed);
                        (exit.ended_at, !never_ran)
                    }),
                }
            })
        });
        let changed = async {
            match &mut self.watch {
                Some(watch) => {
                    let _ = tokio::time::timeout(WATCHED_POLL_INTERVAL, watch.changed()).await;
                }
                None => tokio::time::sleep(UNWATCHED_POLL_INTERVAL).await,
            }
        };
        tokio::select! {
            biased;
            () = self.backend.connection.context.closed.cancelled() => Err(closed()),
            exit = exit => {
                let (ended_at, ran) = exit?;
                self.ended_at = ended_at;
                self.has_written |= ran;
                self.ended = true;
                self.exit = None;
                Ok(())
            }
            () = changed => Ok(()),
        }
    }
}

/// Reads the next block of a file, or the first block if the file was truncated. Also returns
/// whether it was.
///
/// A truncated file has old lines, new lines, or both, which only their times distinguish.
fn read_or_restart(
    open: &mut Open,
    rest: Bytes,
    end: Option<u64>,
) -> io::Result<(Result<Bytes, Bytes>, bool)> {
    let read = open.read(rest, end)?;
    if read.is_ok() || !open.is_truncated()? {
        return Ok((read, false));
    }
    open.offset = 0;
    // The partial line before the truncation is discarded.
    Ok((open.read(Bytes::new(), end)?, true))
}

/// Waits until the engine has written all output of an exited container.
pub(super) async fn settle_all(
    connection: &Connection,
    directory: &LogDirectory,
    ended_at: Option<SystemTime>,
) -> Result<()> {
    let path = directory.current();
    let open = run_blocking(move || match Open::new(&path) {
        Ok(open) => Ok(Some(open)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&path)(error)),
    })
    .await?;
    match open {
        Some(open) => settle(connection.client.peer(), &open, ended_at).await,
        None => Ok(()),
    }
}

/// Waits until the engine has written all output for a file. The engine reports the exit of a
/// container, or a new log file, before it has written all output that it has read. It closes the
/// file after that.
async fn settle(peer: &Peer, open: &Open, ended_at: Option<SystemTime>) -> Result<()> {
    let until = tokio::time::Instant::now() + DRAIN_TIMEOUT;
    let mut pause = Duration::from_millis(1);
    let open = Arc::new(open.clone());
    loop {
        let (peer, open) = (peer.clone(), open.clone());
        let settled = run_blocking(move || {
            let file = open.metadata().map_err(unreadable(&open.path))?;
            let quiet_for = quiet_for(&file, ended_at);
            let quiet = |least: Duration| quiet_for.is_some_and(|time| time >= least);
            // After this time no writer has output left.
            Ok(quiet(DRAIN_TIMEOUT)
                || match peer.has_open(&file) {
                    Some(has_open) => !has_open,
                    None => quiet(Duration::from_millis(200)),
                })
        })
        .await?;
        if settled || tokio::time::Instant::now() >= until {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Returns the time since the last of these: a write, a rename of the file, the exit of the
/// container. A silent container can write its last line at its exit. `None` if that time is in the
/// future.
fn quiet_for(file: &Metadata, ended_at: Option<SystemTime>) -> Option<Duration> {
    let nanos = file.ctime().checked_mul(1_000_000_000)?.checked_add(file.ctime_nsec())?;
    info::time(nanos).max(ended_at)?.elapsed().ok()
}

pub(super) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |error| {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Internal,
        };
        Error::new(kind)
            .with_message(format!("failed to read {}", path.display()))
            .with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use super::super::lines::{Lines, Terminal};
    use super::*;
    use crate::host::log_files::Unfinished;
    use crate::model::log_directory::LOG_FILE;

    fn line(second: u32, stream: &str) -> String {
        format!("2026-11-23T16:00:{second:02}.5Z {stream} F {second}\n")
    }

    /// Log file with a follower.
    struct Followed {
        _temp: tempfile::TempDir,
        file: File,
        open: Open,
        lines: Lines,
    }

    impl Followed {
        /// Creates a file with these lines, and a follower from a position on.
        fn new(text: &str, from: usize) -> Self {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join(LOG_FILE);
            fs::write(&path, text).unwrap();
            // In the mode of the engines.
            let file = File::options().append(true).open(&path).unwrap();
            let mut open = Open::new(&path).unwrap();
            open.offset = from as u64;
            let lines = Lines::new(Terminal::No, 1000, Unfinished::default());
            Self { _temp: temp, file, open, lines }
        }

        fn truncate(&self, length: usize) {
            self.file.set_len(length as u64).unwrap();
        }

        fn write(&mut self, text: &str) {
            self.file.write_all(text.as_bytes()).unwrap();
        }

        /// Returns the records up to the end of the file.
        fn read(&mut self) -> String {
            let mut texts = String::new();
            loop {
                let rest = self.lines.parser.take_rest();
                let (read, was_truncated) = read_or_restart(&mut self.open, rest, None).unwrap();
                if was_truncated {
                    self.lines.restart();
                }
                let is_end = read.is_err();
                self.lines.parser.feed(read.unwrap_or_else(|rest| rest));
                while let Some(record) = self.lines.next() {
                    texts.push_str(&String::from_utf8_lossy(&record.bytes));
                }
                if is_end {
                    return texts;
                }
            }
        }
    }

    #[test]
    fn truncated_file_repeats_no_lines() {
        let text = line(1, "stdout") + &line(2, "stderr") + &line(3, "stdout");
        let one = line(1, "stdout").len();
        let mut followed = Followed::new(&text, 0);
        assert_eq!(followed.read(), "1\n2\n3\n");
        followed.truncate(2 * one);
        assert_eq!(followed.read(), "");
        followed.write(&line(4, "stderr"));
        assert_eq!(followed.read(), "4\n");
        // Detected only after more was written.
        followed.truncate(one);
        followed.write(&line(5, "stdout"));
        assert_eq!(followed.read(), "5\n");
        // The file is empty.
        followed.truncate(0);
        followed.write(&line(6, "stderr"));
        assert_eq!(followed.read(), "6\n");
        followed.write(&line(7, "stdout"));
        assert_eq!(followed.read(), "7\n");
    }

    #[test]
    fn truncated_line_is_lost_alone() {
        let text = line(1, "stdout") + &line(2, "stdout");
        let mut followed = Followed::new(&text, 0);
        assert_eq!(followed.read(), "1\n2\n");
        let part = "2026-11-23T16:00:03.5Z stdout F ";
        followed.write(part);
        assert_eq!(followed.read(), "");
        followed.truncate(line(1, "stdout").len());
        followed.write(&line(4, "stdout"));
        assert_eq!(followed.read(), "4\n");
    }

    #[test]
    fn truncated_file_returns_no_lines_before_the_start() {
        let before = line(1, "stderr") + &line(2, "stdout");
        let text = before.clone() + &line(3, "stdout") + &line(4, "stdout");
        let mut followed = Followed::new(&text, before.len());
        assert_eq!(followed.read(), "3\n4\n");
        followed.truncate(before.len());
        assert_eq!(followed.read(), "");
        followed.write(&line(5, "stderr"));
        assert_eq!(followed.read(), "5\n");
    }

    #[test]
    fn quiet_for_counts_from_the_exit() {
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        let file = tempfile::tempfile().unwrap();
        // The last write was long ago, but not the last change of the inode.
        file.set_modified(now - hour).unwrap();
        let file = file.metadata().unwrap();
        let is_new = |ended_at| quiet_for(&file, ended_at).is_none_or(|time| time < hour / 2);
        assert!(is_new(None) && is_new(Some(now - hour)));
        // A later exit counts.
        assert_eq!(quiet_for(&file, Some(now + hour)), None);
    }
}
