//! Log readers that resume after a lost connection.
//!
//! An engine returns a log as [`Chunk`]s from a given time on, and any chunk may be the last before
//! the connection is lost. The reader stores the position of the last chunk, opens the source again
//! slightly before that position, and skips the chunks that it has already read. Lines that were
//! unfinished at the loss are kept and completed.

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

/// Maximum time by which chunks of a log may be out of order, because the streams of a container
/// are timestamped before they are serialised into one log.
const TIME_SKEW_MAX: Duration = Duration::from_secs(2);

/// Restores the carriage return before the line end of a chunk from a terminal. containerd omits it
/// from its log files.
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

/// The log of one container.
///
/// Chunks are in the order in which the engine received them; the times within one stream do not
/// decrease. Two opens with the same [`OpenLog::since`] return the same chunks in the same order,
/// except for chunks that were rotated away or written in between.
#[async_trait]
pub trait LogSource: Send + Sync + 'static {
    /// Chunks of one open. The stream ends at the current end of the log, or continues with
    /// [`OpenLog::follow`]. A premature end is an error, which is retryable if a new open can
    /// succeed.
    type Chunks: Stream<Item = Result<Chunk>> + Send + Unpin + 'static;

    /// Opens the log. The source applies its own deadline.
    async fn open(&self, from: OpenLog) -> Result<Self::Chunks>;

    /// Returns the state of the container.
    async fn status(&self) -> Result<ContainerStatus>;

    /// Completes when the container has ended. The implementation should be cheap: one connection
    /// may serve any number of these futures. An error means that the end cannot be observed this
    /// way.
    async fn ended(&self) -> Result<()>;

    /// Returns `true` if a removal ended the container. Called only for a container that has ended.
    async fn ended_by_removal(&self) -> bool {
        false
    }

    /// Returns `true` if [`OpenLog::follow`] is supported. Otherwise each open ends at the current
    /// end of the log, and a follower polls the log in turns.
    fn follows(&self) -> bool {
        true
    }

    /// Completes when a log that is polled may have new chunks since the last turn, and after a
    /// bounded time in any case.
    async fn changed(&self, last: Turn) {
        tokio::time::sleep(last.pause()).await;
    }

    /// Returns the time from which the log has to be opened so that each line whose first chunk has
    /// `time` or later is complete, and every other line includes its beginning. `None` means the
    /// start of the log.
    fn open_since(&self, time: SystemTime) -> Option<SystemTime>;

    /// Returns the time after which a follower of an ended container treats an idle stream as
    /// exhausted and reads the rest with a new open. Engines end the stream by themselves, with
    /// different delays.
    fn drained(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Returns the resolution of the engine's timestamps.
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    /// Returns `true` if [`OpenLog::tail`] is supported. This requires that all chunks of a line
    /// have the time of the first.
    fn has_tail(&self) -> bool {
        false
    }

    /// Returns `true` if [`OpenLog::tail`] is supported but counts lines of the log file, several
    /// of which may form one chunk. The last chunks are then not limited by a time as well.
    fn has_line_tail(&self) -> bool {
        false
    }

    /// Returns `true` if a log without [`OpenLog::follow`] is opened again after a retryable error,
    /// as long as each open returns more chunks. Otherwise the error ends the log.
    fn resumes(&self) -> bool {
        false
    }

    /// Returns the error with which a reader ends if the log continues after `after`, the reader's
    /// position, but the engine has discarded the chunk at that position and possibly later ones.
    /// With `None` the reader continues with the remaining chunks, for a source that detects lost
    /// lines itself.
    fn thrown_away(&self, after: SystemTime) -> Option<Error> {
        let _ = after;
        None
    }
}

/// Result of one turn of a log that is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Number of new chunks.
    pub new: u64,
    /// Number of consecutive turns without new chunks, including this one.
    pub dry: u32,
}

/// A turn with at least this number of new chunks is followed by the next without a pause, because
/// the engine may be about to discard unread chunks.
const BUSY_TURN_CHUNKS: u64 = 256;

impl Turn {
    /// Returns the pause before the next turn, at most 1 s. The pause grows with the number of
    /// turns without new chunks.
    #[must_use]
    pub fn pause(self) -> Duration {
        if self.new >= BUSY_TURN_CHUNKS {
            return Duration::ZERO;
        }
        Duration::from_millis(50 << self.dry.min(5)).min(Duration::from_secs(1))
    }
}

/// Options for opening a [`LogSource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenLog {
    /// Returns only chunks with this time or later.
    pub since: Option<SystemTime>,
    /// Returns only this number of the last existing chunks.
    pub tail: Option<u64>,
    /// Continues at the end of the log.
    pub follow: bool,
}

/// Opens a log and returns a reader of its records.
///
/// An unfinished line at the end of the log is returned only if the container has ended. Before
/// that, the line is not a record, because a cursor cannot point into a line.
///
/// # Errors
/// The errors of [`LogOptions::check`] and of the first open.
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

/// Returns `true` if the container of an ended log was removed, or is being removed by this
/// process.
async fn was_removed<S: LogSource>(source: &S) -> bool {
    match source.status().await {
        Ok(ContainerStatus::Exited) => source.ended_by_removal().await,
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}
