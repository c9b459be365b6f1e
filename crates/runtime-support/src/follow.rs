//! Reads a log to its end and over lost connections, from a source that can only be opened again.
//!
//! An engine gives a log as [`Chunk`]s from some time on, and can be cut off at any of them. The
//! reader here remembers the place of the last chunk that it took, opens the source again a little
//! before that, and passes over what it has had. The lines that were unfinished at the cut go on:
//! their beginnings are kept.

mod cursor;
mod place;
mod reader;
mod removal;
mod reopen;
mod seek;
mod tail;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod turns;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::Stream;
use runtime_core::{
    Chunk, ContainerStatus, Error, ErrorKind, Follow, LogOptions, LogReader, Result,
};

pub use self::cursor::{CursorSearch, Given};
pub use self::removal::UntilRemoved;

/// How far apart the times of two chunks may be that stand in a log in the wrong order. The
/// streams of a container are stamped before they take their turn at the log.
const SKEW: Duration = Duration::from_secs(2);

/// A chunk of a terminal's log as the terminal wrote it: with a carriage return before the line end,
/// which containerd leaves out of its log files.
#[must_use]
pub fn with_carriage_return(chunk: Chunk) -> Chunk {
    match chunk.bytes.strip_suffix(b"\n") {
        Some(line) if chunk.ends_line && !line.ends_with(b"\r") => {
            let mut bytes = Vec::with_capacity(line.len() + 2);
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(b"\r\n");
            Chunk { bytes: bytes.into(), ..chunk }
        }
        _ => chunk,
    }
}

/// One container's log.
///
/// Chunks stand in a log in the order in which the engine received them; those of one stream have
/// times that do not decrease. Opened twice with the same [`OpenLog::since`], it gives the same
/// chunks in the same order, but for what was rotated away meanwhile and what is new.
#[async_trait]
pub trait LogSource: Send + Sync + 'static {
    /// The chunks of one open. The stream ends at the end of the log as it is, or goes on with
    /// [`OpenLog::follow`]; an end before that is an error, a retryable one if opening again can
    /// mend it.
    type Chunks: Stream<Item = Result<Chunk>> + Send + Unpin + 'static;

    /// Opens the log. Its deadline is the source's own.
    async fn open(&self, from: OpenLog) -> Result<Self::Chunks>;

    /// Where the container is in its life.
    async fn status(&self) -> Result<ContainerStatus>;

    /// Completes when the container has ended, as cheaply as the backend can: one connection may
    /// serve any number of these. An error means that it cannot be known this way.
    async fn ended(&self) -> Result<()>;

    /// Returns whether a removal has ended the container, of which it is known that it has ended.
    async fn ended_by_removal(&self) -> bool {
        false
    }

    /// Whether [`OpenLog::follow`] is honoured. If not, each open ends at the end of the log as it
    /// is, and a reader that follows reads the log in turns.
    fn follows(&self) -> bool {
        true
    }

    /// Completes when a log that is read in turns may have more than the last turn gave, and after
    /// some time at the latest.
    async fn changed(&self, last: Turn) {
        tokio::time::sleep(last.pause()).await;
    }

    /// From when on the log has to be opened so that each line with a first chunk of `time` or
    /// later comes whole, and no other line comes without its head. `None` is from the start.
    fn open_since(&self, time: SystemTime) -> Option<SystemTime>;

    /// How long an open log stands still before a follower of a container that has ended takes it for
    /// read, and reads the rest anew. An engine ends it by itself, some sooner than others.
    fn drained(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// The unit of the times that the engine gives.
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    /// Whether [`OpenLog::tail`] is honoured. That takes an engine whose chunks of one line all
    /// carry the time of the first.
    fn has_tail(&self) -> bool {
        false
    }

    /// Whether [`OpenLog::tail`] is honoured, but counts the lines of the log's file, several of which
    /// can be one chunk. The last chunks are then not cut off by a time as well.
    fn has_line_tail(&self) -> bool {
        false
    }

    /// Whether a log that is read without [`OpenLog::follow`] is opened again when a retryable error
    /// has cut it off, as long as each open returns more of it. Otherwise the error ends the log.
    fn resumes(&self) -> bool {
        false
    }

    /// What a reader ends with when the log goes on after `after`, where it stood, and has no
    /// longer what stood there: the engine has thrown it away, and lines after it may have gone
    /// with it. `None` has the reader go on with what is there, for a source that finds out by
    /// itself whether lines are lost.
    fn thrown_away(&self, after: SystemTime) -> Option<Error> {
        let _ = after;
        None
    }
}

/// What one turn of a log gave that is read in turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// How many chunks were new.
    pub new: u64,
    /// How many turns in a row, with this one, had nothing new.
    pub dry: u32,
}

/// A turn with so many new chunks is followed by the next one at once: the engine may be about to
/// throw away what was not read yet.
const BUSY_TURN: u64 = 256;

impl Turn {
    /// Returns a pause before the next turn, of up to a second: the longer, the longer there was
    /// nothing new.
    #[must_use]
    pub fn pause(self) -> Duration {
        if self.new >= BUSY_TURN {
            return Duration::ZERO;
        }
        Duration::from_millis(50 << self.dry.min(5)).min(Duration::from_secs(1))
    }
}

/// How to open a [`LogSource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenLog {
    /// Only chunks of this time or later.
    pub since: Option<SystemTime>,
    /// Only the last so many of the chunks that are there.
    pub tail: Option<u64>,
    /// Whether to go on when the end is reached.
    pub follow: bool,
}

/// Opens a log and gives its records.
///
/// A line that is unfinished when the end of the log is reached is given only if the container has
/// ended: until then it is no record yet, and a cursor could not stand in its middle.
///
/// # Errors
/// Those of [`LogOptions::check`] and of the first open.
pub async fn read_log<S: LogSource>(source: S, options: LogOptions) -> Result<LogReader> {
    options.check()?;
    let after = options.after;
    let follow = options.follow == Follow::Yes;
    let source = Arc::new(source);
    let reader = reader::Reader::open(Arc::clone(&source), options).await?;
    let left_out = reader.left_out();
    let reader = match follow {
        true => {
            let was_removed = async move { was_removed(&*source).await }.boxed();
            LogReader::new(UntilRemoved::new(reader, was_removed), after)
        }
        false => LogReader::new(reader, after),
    };
    Ok(reader.after_those_left_out(left_out))
}

/// Returns whether the container of a log that has ended was removed, or is being removed by this
/// process.
async fn was_removed<S: LogSource>(source: &S) -> bool {
    match source.status().await {
        Ok(ContainerStatus::Exited) => source.ended_by_removal().await,
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}
