//! Position of a reader in a log, at the resolution of chunks.

use std::time::SystemTime;

use runtime_core::{Chunk, LogStream};

use super::TIME_SKEW_MAX;

/// Position after the chunks that were read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogPosition {
    /// Time of the last chunk of each stream, and the number of chunks with that time.
    runs: [Option<Run>; 4],
    /// Time of the first chunk of each stream's unfinished line.
    heads: [Option<SystemTime>; 4],
    last: Option<LogStream>,
    newest: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    time: SystemTime,
    chunks: u64,
    /// `true` if chunks with the same time may precede the counted ones.
    cut: bool,
    /// `true` if the last chunk ends a line.
    ends_line: bool,
    /// Time of the preceding chunk of the stream.
    before: Option<SystemTime>,
}

impl LogPosition {
    /// Advances the position by a chunk. `first_may_be_cut` is `true` if the open limited the
    /// number of chunks instead of their time, so that chunks before the first may be missing.
    pub(super) fn advance(&mut self, chunk: &Chunk, first_may_be_cut: bool) {
        let slot = chunk.stream as usize;
        match &mut self.runs[slot] {
            Some(run) if run.time == chunk.time => {
                run.chunks += 1;
                run.ends_line = chunk.ends_line;
            }
            run => {
                let cut = first_may_be_cut && run.is_none();
                let before = run.map(|run| run.time);
                let ends_line = chunk.ends_line;
                *run = Some(Run { time: chunk.time, chunks: 1, cut, ends_line, before });
            }
        }
        self.heads[slot] = match (chunk.ends_line, self.heads[slot]) {
            (true, _) => None,
            (false, head) => head.or(Some(chunk.time)),
        };
        self.last = Some(chunk.stream);
        self.newest = self.newest.max(Some(chunk.time));
    }

    /// Returns `true` if the position can be found again.
    pub(super) fn is_certain(&self) -> bool {
        self.last_run().is_none_or(|(_, run)| !run.cut)
    }

    /// Returns the time from which the log has to be opened to resume here, or `None` if no chunk
    /// was read.
    ///
    /// The time includes [`TIME_SKEW_MAX`] and the first chunks of unfinished lines, because an
    /// engine may give the rest of a line the time of its beginning.
    pub(super) fn since(&self) -> Option<SystemTime> {
        let (_, run) = self.last_run()?;
        let newest = self.newest?;
        let before = newest.checked_sub(TIME_SKEW_MAX).unwrap_or(SystemTime::UNIX_EPOCH);
        let run = run.before.into_iter().chain([run.time]);
        self.heads.iter().flatten().copied().chain([before]).chain(run).min()
    }

    /// Returns a filter for the chunks before the position, for a log that is opened again.
    /// `by_number` is `true` if the open requests only the last chunks.
    pub(super) fn filter(&self, by_number: bool) -> PositionFilter {
        match (self.last_run(), self.newest) {
            (Some((stream, run)), Some(newest)) => PositionFilter(Some(Target {
                stream,
                time: run.time,
                chunks: run.chunks,
                newest,
                by_number,
                before: false,
                // A single complete line is either present or not.
                has_before: run.before.is_some() && (run.chunks > 1 || !run.ends_line),
            })),
            _ => PositionFilter(None),
        }
    }

    fn last_run(&self) -> Option<(LogStream, Run)> {
        let stream = self.last?;
        Some((stream, self.runs[stream as usize]?))
    }
}

/// Filter for the chunks up to a position.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PositionFilter(Option<Target>);

#[derive(Debug, Clone, Copy)]
struct Target {
    stream: LogStream,
    time: SystemTime,
    chunks: u64,
    newest: SystemTime,
    by_number: bool,
    /// `true` if an earlier chunk of the stream was seen.
    before: bool,
    /// `true` if an earlier chunk exists. If that chunk is missing, the engine has discarded it and
    /// possibly the first chunks with the time of the position.
    has_before: bool,
}

/// Relation of a chunk to the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkRelation {
    Read,
    New,
    /// The chunk is new, and the last chunk read, with this time, is no longer in the log.
    PositionGone(SystemTime),
    /// The relation cannot be determined because too few chunks were requested.
    Unclear,
}

impl PositionFilter {
    /// Checks if a chunk was already read.
    pub(super) fn check(&mut self, chunk: &Chunk) -> ChunkRelation {
        let Some(target) = &mut self.0 else { return ChunkRelation::New };
        if chunk.stream == target.stream && chunk.time == target.time {
            if target.by_number && !target.before {
                // Other chunks with this time may precede the chunk.
                return ChunkRelation::Unclear;
            }
            if target.has_before && !target.before {
                let time = target.time;
                self.0 = None;
                return ChunkRelation::PositionGone(time);
            }
            target.chunks -= 1;
            if target.chunks == 0 {
                self.0 = None;
            }
            return ChunkRelation::Read;
        }
        target.before |= chunk.stream == target.stream;
        if chunk.time <= target.newest {
            return ChunkRelation::Read;
        }
        // The chunk is newer than all chunks read.
        if target.by_number {
            return ChunkRelation::Unclear;
        }
        let time = target.time;
        self.0 = None;
        ChunkRelation::PositionGone(time)
    }

    /// Returns `true` if no chunk can be missing: the position was found, or the open was not
    /// limited by a number of chunks.
    pub(super) fn is_settled(&self) -> bool {
        self.0.is_none_or(|target| !target.by_number)
    }
}
