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

use super::next::{Reading, following, thrown_away};
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

/// What a source gives.
pub(super) enum Fetched {
    Block(Bytes),
    /// There is no more, and whether the container has ended.
    End {
        rest: Bytes,
        ended: bool,
    },
}

/// Where the blocks come from.
pub(super) struct Source {
    pub(super) backend: Arc<CriBackend>,
    pub(super) container: CriContainer,
    pub(super) directory: LogDirectory,
    pub(super) open: Option<Open>,
    /// The last file when the reading began, by its inode, and its length then.
    pub(super) last: Option<(u64, u64)>,
    pub(super) follow: bool,
    /// Whether the container has ended.
    pub(super) ended: bool,
    /// When that was, where it is known.
    pub(super) ended_at: Option<SystemTime>,
    /// Whether there is or was a log.
    pub(super) has_written: bool,
    pub(super) exit: Option<WatchedExit>,
    pub(super) watch: Option<DirectoryWatch>,
    /// Whether the file was cut since this was asked the last time. What comes of it is its beginning.
    pub(super) was_cut: bool,
}

/// The end of the container: its time, if it is known, and whether a process has run.
type WatchedExit = BoxFuture<'static, Result<(Option<SystemTime>, bool)>>;

/// What comes after the end of a file.
enum Next {
    File(Open),
    /// There is one, which was renamed since it was listed.
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
                // What comes after this look wakes the wait below.
                watch.mark_seen();
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
                    // It was rotated since it was listed.
                    Next::Again => {}
                    Next::Nothing => return Err(thrown_away()),
                }
                continue;
            }
            if self.watch.is_none() {
                self.watch = self.backend.watcher.watch(&self.directory.path, WatchMode::Write);
                if self.watch.is_some() {
                    // What came before the watch is looked for once more.
                    rest = match self.read(rest).await? {
                        Ok(block) => return Ok(Fetched::Block(block)),
                        Err(rest) => rest,
                    };
                }
            }
            // Asked before the file is read to its end: then nothing can come in between.
            let ended = self.ended;
            match self.next_file().await? {
                Next::File(next) => {
                    // The engine may still have something for the old one.
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

    /// Reads on in the file that is open.
    async fn read(&mut self, rest: Bytes) -> Result<Result<Bytes, Bytes>> {
        let Some(mut open) = self.open.clone() else { return Ok(Err(rest)) };
        let follow = self.follow;
        let last = self.last.filter(|(inode, _)| !follow && *inode == open.inode);
        let end = last.map(|(_, end)| end);
        let (open, read, was_cut) = run_blocking(move || {
            let path = open.path.clone();
            let read = if follow {
                read_over_cut(&mut open, rest, end)
            } else {
                open.read(rest, end).map(|read| (read, false))
            };
            let (read, was_cut) = read.map_err(unreadable(&path))?;
            if was_cut {
                tracing::warn!(path = %path.display(), "a log file was cut: reading it anew");
            }
            Ok((open, read, was_cut))
        })
        .await?;
        self.open = Some(open);
        self.was_cut |= was_cut;
        Ok(read)
    }

    /// The file that follows the one that is open, if there is one.
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
                // It was removed, with the container or before it. What was current then was the last.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let is_whole = open.map_or(may_be_empty, |open| open.is_current);
                    return if is_whole { Ok(Next::Nothing) } else { Err(thrown_away()) };
                }
                Err(error) => return Err(unreadable(&directory.path)(error)),
            };
            let Some(next) = following(&directory, &files, open)? else { return Ok(Next::Nothing) };
            // Rotated since it was listed, the next look finds it under its new name.
            let next = Open::listed(next).map_err(unreadable(&next.path))?;
            Ok(next.map_or(Next::Again, Next::File))
        })
        .await
    }

    /// Waits until the engine has written all that it has for the file that is open.
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

    /// Waits until something happens.
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

/// Reads on in a file, and from its beginning when somebody has cut it. Says whether that was so.
///
/// What is there then can be what was left of it, or new, or both: only its times can tell.
fn read_over_cut(
    open: &mut Open,
    rest: Bytes,
    end: Option<u64>,
) -> io::Result<(Result<Bytes, Bytes>, bool)> {
    let read = open.read(rest, end)?;
    if read.is_ok() || !open.is_cut()? {
        return Ok((read, false));
    }
    open.offset = 0;
    // The beginning of a line that was there has gone with the rest of it.
    Ok((open.read(Bytes::new(), end)?, true))
}

/// Waits until the engine has written all that it has of a container that has ended.
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

/// The engine says that a container has ended, or that a new log file was begun, before it has
/// written the last that it has read. When it has, it closes the file.
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
            // Long ago is long enough whoever writes.
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

/// How long ago the last of these was: a write, a new name for the file, the end of the container. A
/// silent container can write its last line with its end. `None` when that is not over.
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
        Error::new(kind).with_message(format!("cannot read {}", path.display())).with_source(error)
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

    /// A log file, and a follower of it.
    struct Followed {
        _folder: tempfile::TempDir,
        file: File,
        open: Open,
        lines: Lines,
    }

    impl Followed {
        /// Of a file with these lines, from a position in it on.
        fn new(text: &str, from: usize) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(LOG_FILE);
            fs::write(&path, text).unwrap();
            // As engines open it.
            let file = File::options().append(true).open(&path).unwrap();
            let mut open = Open::new(&path).unwrap();
            open.offset = from as u64;
            let lines = Lines::new(Terminal::No, 1000, Unfinished::default());
            Self { _folder: folder, file, open, lines }
        }

        fn cut(&self, length: usize) {
            self.file.set_len(length as u64).unwrap();
        }

        fn write(&mut self, text: &str) {
            self.file.write_all(text.as_bytes()).unwrap();
        }

        /// What comes up to the end of the file.
        fn read(&mut self) -> String {
            let mut texts = String::new();
            loop {
                let rest = self.lines.parser.take_rest();
                let (read, was_cut) = read_over_cut(&mut self.open, rest, None).unwrap();
                if was_cut {
                    self.lines.begin_again();
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
    fn what_is_left_of_a_file_that_was_cut_does_not_come_twice() {
        let text = line(1, "stdout") + &line(2, "stderr") + &line(3, "stdout");
        let one = line(1, "stdout").len();
        let mut followed = Followed::new(&text, 0);
        assert_eq!(followed.read(), "1\n2\n3\n");
        followed.cut(2 * one);
        assert_eq!(followed.read(), "");
        followed.write(&line(4, "stderr"));
        assert_eq!(followed.read(), "4\n");
        // ListedContainer only after more was written.
        followed.cut(one);
        followed.write(&line(5, "stdout"));
        assert_eq!(followed.read(), "5\n");
        // Nothing is left of it.
        followed.cut(0);
        followed.write(&line(6, "stderr"));
        assert_eq!(followed.read(), "6\n");
        followed.write(&line(7, "stdout"));
        assert_eq!(followed.read(), "7\n");
    }

    #[test]
    fn a_cut_in_the_middle_of_a_line_costs_only_that_line() {
        let text = line(1, "stdout") + &line(2, "stdout");
        let mut followed = Followed::new(&text, 0);
        assert_eq!(followed.read(), "1\n2\n");
        let part = "2026-11-23T16:00:03.5Z stdout F ";
        followed.write(part);
        assert_eq!(followed.read(), "");
        followed.cut(line(1, "stdout").len());
        followed.write(&line(4, "stdout"));
        assert_eq!(followed.read(), "4\n");
    }

    #[test]
    fn what_stood_before_the_beginning_does_not_come_after_a_cut() {
        let before = line(1, "stderr") + &line(2, "stdout");
        let text = before.clone() + &line(3, "stdout") + &line(4, "stdout");
        let mut followed = Followed::new(&text, before.len());
        assert_eq!(followed.read(), "3\n4\n");
        followed.cut(before.len());
        assert_eq!(followed.read(), "");
        followed.write(&line(5, "stderr"));
        assert_eq!(followed.read(), "5\n");
    }

    #[test]
    fn a_silence_before_the_end_is_none_after_it() {
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        let file = tempfile::tempfile().unwrap();
        // Its last write was long ago, but not what happened to it last.
        file.set_modified(now - hour).unwrap();
        let file = file.metadata().unwrap();
        let is_new = |ended_at| quiet_for(&file, ended_at).is_none_or(|time| time < hour / 2);
        assert!(is_new(None) && is_new(Some(now - hour)));
        // An end that is later counts.
        assert_eq!(quiet_for(&file, Some(now + hour)), None);
    }
}
