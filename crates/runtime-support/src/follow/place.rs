//! The place in a log that was reached, to the chunk.

use std::time::SystemTime;

use runtime_core::{Chunk, LogStream};

use super::SKEW;

/// What has been taken of a log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    /// For each stream, the time of its last chunk and how many chunks of that time there were.
    runs: [Option<Run>; 4],
    /// For each stream, the time of the first chunk of the line that is unfinished.
    heads: [Option<SystemTime>; 4],
    last: Option<LogStream>,
    newest: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    time: SystemTime,
    chunks: u64,
    /// Whether chunks of the same time may stand before those that were counted.
    cut: bool,
    /// Whether the last chunk ends a line.
    ends_line: bool,
    /// The time of the chunk of the stream before them.
    before: Option<SystemTime>,
}

impl Place {
    /// Takes the next chunk. `first_may_be_cut` says that the first chunks of the log were left
    /// out by their number, and not by their time.
    pub(super) fn take(&mut self, chunk: &Chunk, first_may_be_cut: bool) {
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

    /// Whether the place can be found again.
    pub(super) fn is_certain(&self) -> bool {
        self.last_run().is_none_or(|(_, run)| !run.cut)
    }

    /// From when on the log has to be opened to go on here; `None` when nothing was taken.
    ///
    /// It reaches back over the [`SKEW`], and to the first chunks of unfinished lines, because an
    /// engine may give the rest of a line the time of its beginning.
    pub(super) fn since(&self) -> Option<SystemTime> {
        let (_, run) = self.last_run()?;
        let newest = self.newest?;
        let before = newest.checked_sub(SKEW).unwrap_or(SystemTime::UNIX_EPOCH);
        let run = run.before.into_iter().chain([run.time]);
        self.heads.iter().flatten().copied().chain([before]).chain(run).min()
    }

    /// Passes over what was taken, in a log that is opened again. `by_number` says that only its
    /// last chunks are asked for.
    pub(super) fn skip(&self, by_number: bool) -> Skip {
        match (self.last_run(), self.newest) {
            (Some((stream, run)), Some(newest)) => Skip(Some(Until {
                stream,
                time: run.time,
                chunks: run.chunks,
                newest,
                by_number,
                before: false,
                // One line, which is whole, is there or is not.
                has_before: run.before.is_some() && (run.chunks > 1 || !run.ends_line),
            })),
            _ => Skip(None),
        }
    }

    fn last_run(&self) -> Option<(LogStream, Run)> {
        let stream = self.last?;
        Some((stream, self.runs[stream as usize]?))
    }
}

/// Passes over chunks until the last one that was taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Skip(Option<Until>);

#[derive(Debug, Clone, Copy)]
struct Until {
    stream: LogStream,
    time: SystemTime,
    chunks: u64,
    newest: SystemTime,
    by_number: bool,
    /// Whether a chunk of the stream was seen that is before those of that time.
    before: bool,
    /// Whether there is one, which is missing only if the engine has thrown it away, and then
    /// maybe the first chunks of that time with it.
    has_before: bool,
}

/// Whether a chunk has been taken before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Yes,
    No,
    /// It has not, and the last one that was taken, of this time, is no longer in the log.
    Gone(SystemTime),
    /// It cannot be told, because too few chunks were asked for.
    Unclear,
}

impl Skip {
    /// Whether a chunk has been taken before.
    pub(super) fn look(&mut self, chunk: &Chunk) -> Seen {
        let Some(until) = &mut self.0 else { return Seen::No };
        if chunk.stream == until.stream && chunk.time == until.time {
            if until.by_number && !until.before {
                // There may be others of this time before it.
                return Seen::Unclear;
            }
            if until.has_before && !until.before {
                let time = until.time;
                self.0 = None;
                return Seen::Gone(time);
            }
            until.chunks -= 1;
            if until.chunks == 0 {
                self.0 = None;
            }
            return Seen::Yes;
        }
        until.before |= chunk.stream == until.stream;
        if chunk.time <= until.newest {
            return Seen::Yes;
        }
        // Newer than all that was taken.
        if until.by_number {
            return Seen::Unclear;
        }
        let time = until.time;
        self.0 = None;
        Seen::Gone(time)
    }

    /// Whether the last chunk that was taken has come, where that is needed to be sure that
    /// nothing is missing.
    pub(super) fn is_settled(&self) -> bool {
        self.0.is_none_or(|until| !until.by_number)
    }
}
