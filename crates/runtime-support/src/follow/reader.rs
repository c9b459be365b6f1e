//! State machine of a log reader.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, pending};
use futures_util::{FutureExt, Stream};
use runtime_core::{
    Backoff, Chunk, ContainerStatus, Error, ErrorKind, Follow, LineJoiner, LogCursor, LogOptions,
    LogRecord, Result,
};
use tokio::time::{Sleep, sleep};

use super::cursor::CursorSearch;
use super::place::{ChunkRelation, LogPosition, PositionFilter};
use super::reopen::{
    EndWatch, OpenUntil, Transition, ended_within, has_ended, open_rest, read, reopen, reopen_now,
};
use super::seek::{Seek, SeekResult};
use super::tail::Tail;
use super::{LogSource, OpenLog, TIME_SKEW_MAX, Turn};

/// Idle time after which the chunks of an open log are treated as complete.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Maximum time that lines wait for an unfinished line of another stream.
const HOLD_MAX: Duration = Duration::from_millis(500);

/// Number of chunks from which a log counts as long.
const LONG_LOG_CHUNKS: u64 = 8192;

/// Number of chunks of a long log that are requested to find the last chunk read.
const LOOK_BACK_CHUNKS: u64 = 1024;

/// Maximum number of retries of a tail that was cut off.
const TAIL_RETRIES_MAX: u32 = 3;

/// Minimum and maximum number of chunks that are requested in a turn to find the last chunk read
/// and all later ones.
const WINDOW_CHUNKS: (u64, u64) = (64, 1 << 18);

/// Maximum delay between the end of a log and the report of the container's end.
const END_REPORT_LAG_MAX: Duration = Duration::from_millis(50);

pub(super) struct Reader<S: LogSource> {
    source: Arc<S>,
    follow: bool,
    max_line: usize,
    /// Time from which the log was first opened. Later opens never use an earlier time.
    from: Option<SystemTime>,
    joiner: LineJoiner,
    seek: Seek,
    tail: Option<Tail>,
    /// Cursor after the last record that the tail omitted, set once the tail is complete.
    left_out: Arc<OnceLock<LogCursor>>,
    position: LogPosition,
    filter: PositionFilter,
    /// Number of chunks read.
    taken: u64,
    /// Value of `taken` before this turn, for a log that is polled.
    taken_before: u64,
    /// Result of the last turn.
    turn: Turn,
    /// Number of chunks to request in the next turn.
    window: u64,
    backoff: Backoff,
    state: ReaderState<S>,
    /// Records to return before those of the joiner.
    ready: VecDeque<LogRecord>,
    ended: ContainerEnd,
    idle: Option<Pin<Box<Sleep>>>,
    /// Timer that runs while lines wait for an unfinished line of another stream.
    hold: Option<Pin<Box<Sleep>>>,
    /// Value of `taken` when a log without follow was last cut off, and the number of such cuts.
    resume_attempts: (u64, u32),
}

enum ReaderState<S: LogSource> {
    Open(S::Chunks, OpenUntil),
    Pending(BoxFuture<'static, Transition<S>>),
    /// The reader ends with this error, if any, after the records that are ready.
    Done(Option<Error>),
}

/// Information about the container's end.
enum ContainerEnd {
    Unknown,
    Watched(EndWatch),
    /// The end cannot be observed: it is determined from the end of the log.
    Unwatched,
    Yes,
}

impl<S: LogSource> Reader<S> {
    pub(super) async fn open(source: Arc<S>, options: LogOptions) -> Result<Self> {
        let mut follow = options.follow == Follow::Yes;
        let mut ended = ContainerEnd::Unknown;
        let from = match (options.since, options.after) {
            (Some(since), _) => source.open_since(since),
            (None, Some(after)) => {
                let begin = CursorSearch::begin(after);
                begin.checked_sub(TIME_SKEW_MAX).and_then(|time| source.open_since(time))
            }
            (None, None) => None,
        };
        let seek = match (options.since, options.after) {
            (Some(since), _) => Seek::since(since, source.resolution()),
            (None, Some(after)) => Seek::after(after, source.resolution()),
            (None, None) => Seek::All,
        };
        let tail = options.tail.map(|wanted| {
            let exact = source.has_tail();
            Tail::new(wanted, exact || source.has_line_tail(), exact).since(options.since)
        });
        if tail.is_some() && follow && source.status().await? == ContainerStatus::Exited {
            follow = false;
            ended = ContainerEnd::Yes;
        }
        let until = match (&tail, follow) {
            (None, true) => OpenUntil::Follow,
            _ if matches!(ended, ContainerEnd::Yes) => OpenUntil::End,
            _ => OpenUntil::Now,
        };
        let tail_chunks = tail.as_ref().and_then(Tail::requested);
        let since = from.filter(|_| tail_chunks.is_none() || source.has_tail());
        let chunks = source
            .open(OpenLog { since, tail: tail_chunks, follow: until == OpenUntil::Follow })
            .await?;
        Ok(Self {
            source,
            follow,
            max_line: options.max_line,
            from,
            joiner: LineJoiner::new(options.max_line),
            seek,
            tail,
            left_out: Arc::default(),
            position: LogPosition::default(),
            filter: PositionFilter::default(),
            taken: 0,
            taken_before: 0,
            turn: Turn::default(),
            window: WINDOW_CHUNKS.0,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            state: ReaderState::Open(chunks, until),
            ready: VecDeque::new(),
            ended,
            idle: None,
            hold: None,
            resume_attempts: (0, 0),
        })
    }

    /// Returns the cell that holds the cursor after the last record omitted by the tail. The cell
    /// is set before the first record is returned.
    pub(super) fn left_out(&self) -> Arc<OnceLock<LogCursor>> {
        Arc::clone(&self.left_out)
    }

    fn push_chunk(&mut self, chunk: Chunk) {
        self.idle = None;
        match self.filter.check(&chunk) {
            ChunkRelation::Read => return,
            ChunkRelation::Unclear => return self.look_further_back(),
            ChunkRelation::PositionGone(time) if self.is_lost(Some(time)) => return,
            ChunkRelation::PositionGone(_) | ChunkRelation::New => {}
        }
        self.backoff.reset();
        self.taken += 1;
        let by_chunks = self.tail.as_ref().is_some_and(|tail| tail.requested().is_some());
        self.position.advance(&chunk, by_chunks);
        if let Some(tail) = &mut self.tail {
            tail.observe(&chunk);
        }
        self.joiner.push(chunk);
    }

    /// Returns the next wanted record among the available ones.
    fn pop(&mut self) -> Option<LogRecord> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(record);
            }
            let record = self.joiner.pop()?;
            match self.seek.pass(record) {
                SeekResult::Wanted(record) => match &mut self.tail {
                    None => return Some(record),
                    Some(tail) => tail.push(record),
                },
                SeekResult::BeyondPosition if self.give_up() => return None,
                SeekResult::BeyondPosition | SeekResult::Skipped => {}
            }
        }
    }

    /// Ends the search for the cursor. Returns `true` if that ends the log with an error.
    fn give_up(&mut self) -> bool {
        let lost = self.is_lost(self.seek.missing_position());
        if !lost {
            self.ready.append(&mut self.seek.give_up());
        }
        lost
    }

    /// Ends the log with an error if the source does not tolerate that the position with time
    /// `missing_position` is no longer in the log.
    fn is_lost(&mut self, missing_position: Option<SystemTime>) -> bool {
        let Some(error) = missing_position.and_then(|time| self.source.thrown_away(time)) else {
            return false;
        };
        // The joiner may hold the rest of a line, and lines that wait for it.
        self.joiner = LineJoiner::new(self.max_line);
        self.state = ReaderState::Done(Some(error));
        true
    }

    /// Handles a regular end of the open log.
    fn end_of_log(&mut self, until: OpenUntil) {
        match until {
            OpenUntil::End if !self.filter.is_settled() => self.look_further_back(),
            OpenUntil::End => self.finish_open(true),
            OpenUntil::Now if !self.follow && !self.joiner.is_in_line() => self.finish_open(false),
            OpenUntil::Now if !self.follow => {
                let source = Arc::clone(&self.source);
                self.transition(async move { read(has_ended(&*source).await) });
            }
            OpenUntil::Now => self.finish_open(false),
            OpenUntil::Follow if !self.source.follows() => self.next_turn(),
            // Docker ends a followed log when the container ends, possibly before its last chunks.
            // The missing chunks are returned only by a new open.
            OpenUntil::Follow => {
                let known = matches!(self.ended, ContainerEnd::Yes);
                let mut end = self.end();
                let (source, open) = (Arc::clone(&self.source), self.next_open());
                let backoff = self.backoff.clone();
                self.transition(async move {
                    if known || ended_within(&mut end, END_REPORT_LAG_MAX).await {
                        return open_rest(&*source, open, backoff).await;
                    }
                    match has_ended(&*source).await {
                        Ok(true) => open_rest(&*source, open, backoff).await,
                        Err(error) if !error.is_retryable() => Transition::Failed(error),
                        Ok(false) | Err(_) => reopen(&*source, open, backoff, end).await,
                    }
                });
            }
        }
    }

    /// Starts to observe the end of the container. Returns `None` if the end is known or cannot be
    /// observed.
    fn end(&mut self) -> Option<EndWatch> {
        self.watch_end();
        match &self.ended {
            ContainerEnd::Watched(end) => Some(end.clone()),
            _ => None,
        }
    }

    /// Handles the end of a turn, for a log that is polled.
    fn next_turn(&mut self) {
        if !self.filter.is_settled() {
            return self.look_further_back();
        }
        let new = self.taken - self.taken_before;
        self.taken_before = self.taken;
        self.turn = Turn { new, dry: if new == 0 { self.turn.dry.saturating_add(1) } else { 0 } };
        if new > 0 {
            self.window = new.saturating_mul(2).clamp(WINDOW_CHUNKS.0, WINDOW_CHUNKS.1);
        }
        self.watch_end();
        let ended = match &self.ended {
            ContainerEnd::Watched(watched) => Some(watched.clone()),
            ContainerEnd::Yes => Some(std::future::ready(Ok(())).boxed().shared()),
            ContainerEnd::Unknown | ContainerEnd::Unwatched => None,
        };
        let ended = async move {
            let known = match ended {
                Some(ended) => ended.await.is_ok(),
                None => false,
            };
            if !known {
                pending::<()>().await;
            }
        };
        let (source, open, turn) = (Arc::clone(&self.source), self.next_open(), self.turn);
        let backoff = self.backoff.clone();
        self.transition(async move {
            let next = tokio::select! {
                biased;
                () = ended => return open_rest(&*source, open, backoff).await,
                () = source.changed(turn) => reopen_now(&*source, open, backoff, None).await,
            };
            match next {
                // A container that does not exist has ended.
                Transition::Failed(error) if error.kind() == ErrorKind::NotFound => {
                    Transition::Read { ended: true }
                }
                next => next,
            }
        });
    }

    /// Starts to observe the end of the container.
    fn watch_end(&mut self) {
        if let ContainerEnd::Unknown = self.ended {
            let source = Arc::clone(&self.source);
            let watched = async move { source.ended().await }.boxed();
            self.ended = ContainerEnd::Watched(watched.shared());
        }
    }

    /// Handles a cut of the open log.
    fn cut_off(&mut self, error: Error) {
        if !error.is_retryable() || !(self.follow || self.may_resume()) {
            self.state = ReaderState::Done(Some(error));
            return;
        }
        tracing::debug!(%error, "log stream was cut off; opening it again");
        // A follower takes its tail from the chunks read, because it receives the missing ones
        // later anyway. A tail that is read again would end at a later time, and would omit the
        // records written in between.
        if self.follow
            && let Some(tail) = &mut self.tail
        {
            tail.mark_cut_off();
            if self.tail_is_known() && self.position.since().is_some() {
                return self.finish_open(false);
            }
        }
        self.resume();
    }

    /// Returns `true` if a log without follow is opened again after a cut, which requires that each
    /// open returns more chunks. A tail is read from its start each time, so it is limited by the
    /// number of opens.
    fn may_resume(&mut self) -> bool {
        let (taken, opens) = self.resume_attempts;
        self.resume_attempts = (self.taken, opens + 1);
        self.source.resumes()
            && self.taken > taken
            && (self.tail.is_none() || opens < TAIL_RETRIES_MAX)
    }

    /// Opens the log at the current position.
    fn resume(&mut self) {
        let source = Arc::clone(&self.source);
        let mut backoff = self.backoff.clone();
        // Advance the delay of the reader as well, so that repeated failures increase it.
        let _ = self.backoff.delay();
        if let Some(tail) = &mut self.tail {
            tail.restart(false);
            self.reset_position();
            return self.open_tail(Some(backoff.delay()));
        }
        let open = self.next_open();
        if self.follow {
            let end = self.end();
            self.transition(async move { reopen(&*source, open, backoff, end).await });
            return;
        }
        let until =
            if let ContainerEnd::Yes = self.ended { OpenUntil::End } else { OpenUntil::Now };
        self.transition(async move {
            sleep(backoff.delay()).await;
            match source.open(OpenLog { follow: false, ..open }).await {
                Ok(chunks) => Transition::Open(chunks, until),
                Err(error) => Transition::Failed(error),
            }
        });
    }

    /// Handles the end of the available chunks. `ended` is `true` if no more follow.
    fn finish_open(&mut self, ended: bool) {
        if ended {
            self.joiner.finish();
        } else if !self.follow {
            // Lines that wait for an unfinished line are complete; the unfinished line is not a
            // record yet.
            self.joiner.let_pass();
        }
        let Some(mut tail) = self.tail.take() else {
            let mut last = VecDeque::new();
            while let Some(record) = self.pop() {
                last.push_back(record);
            }
            // A lost position has already ended the log.
            if !matches!(self.state, ReaderState::Done(_)) && !self.give_up() {
                self.state = ReaderState::Done(None);
            }
            last.append(&mut self.ready);
            self.ready = last;
            return;
        };
        while let Some(record) = self.joiner.pop() {
            // A tail cannot be combined with a cursor, so no record is held back.
            if let SeekResult::Wanted(record) = self.seek.pass(record) {
                tail.push(record);
            }
        }
        self.tail = Some(tail);
        if !self.tail_is_known() {
            if let Some(tail) = &mut self.tail {
                tail.restart(true);
            }
            self.reset_position();
            return self.open_tail(None);
        }
        let Some(tail) = self.tail.take() else { return };
        if let Some(left_out) = tail.left_out() {
            let _ = self.left_out.set(left_out);
        }
        self.ready = tail.into_records();
        if self.follow {
            // No failure has occurred, so no delay is needed.
            let (source, open) = (Arc::clone(&self.source), self.next_open());
            let (backoff, end) = (self.backoff.clone(), self.end());
            self.transition(async move { reopen_now(&*source, open, backoff, end).await });
        } else {
            self.state = ReaderState::Done(None);
        }
    }

    /// Returns `true` if the chunks read contain the wanted tail, and a follower can continue after
    /// them.
    fn tail_is_known(&self) -> bool {
        let Some(tail) = &self.tail else { return false };
        if !tail.is_enough() {
            return false;
        }
        if !self.follow || tail.has_all() {
            return true;
        }
        // A follower returns the waiting lines later; these have to be complete as well.
        let mut rest = self.joiner.clone();
        rest.finish();
        let mut rest = std::iter::from_fn(|| rest.pop());
        self.position.is_certain() && rest.all(|record| tail.is_whole(&record))
    }

    /// Discards the position, to read the tail again.
    fn reset_position(&mut self) {
        self.joiner = LineJoiner::new(self.max_line);
        self.position = LogPosition::default();
        self.filter = PositionFilter::default();
    }

    fn open_tail(&mut self, delay: Option<Duration>) {
        let source = Arc::clone(&self.source);
        let tail = self.tail.as_ref().and_then(Tail::requested);
        let since = self.from.filter(|_| tail.is_none() || self.source.has_tail());
        let open = OpenLog { since, tail, follow: false };
        let follow = self.follow;
        let until =
            if let ContainerEnd::Yes = self.ended { OpenUntil::End } else { OpenUntil::Now };
        let mut backoff = self.backoff.clone();
        self.transition(async move {
            let mut delay = delay;
            loop {
                if let Some(delay) = delay {
                    sleep(delay).await;
                }
                match source.open(open).await {
                    Ok(chunks) => return Transition::Open(chunks, until),
                    Err(error) if follow && error.is_retryable() => delay = Some(backoff.delay()),
                    Err(error) => return Transition::Failed(error),
                }
            }
        });
    }

    /// Returns options to open the log at the current position. An engine finds a time by reading
    /// the whole log, so for a long log only the last chunks are requested first.
    fn next_open(&mut self) -> OpenLog {
        let (long, tail) = match self.source.follows() {
            true => (LONG_LOG_CHUNKS, LOOK_BACK_CHUNKS),
            false => (WINDOW_CHUNKS.0 * 2, self.window),
        };
        let tail = (self.taken >= long && self.source.has_tail()).then_some(tail);
        self.filter = self.position.filter(tail.is_some());
        // Not earlier than the first open, because earlier chunks were never counted.
        OpenLog { since: self.position.since().max(self.from), tail, follow: true }
    }

    /// Opens the log by time, because the last chunks were not sufficient.
    fn look_further_back(&mut self) {
        let open = OpenLog { tail: None, ..self.next_open() };
        self.filter = self.position.filter(false);
        let (source, backoff) = (Arc::clone(&self.source), self.backoff.clone());
        let end = self.end();
        self.transition(async move { reopen_now(&*source, open, backoff, end).await });
    }

    fn transition(&mut self, next: impl Future<Output = Transition<S>> + Send + 'static) {
        self.idle = None;
        self.state = ReaderState::Pending(Box::pin(next));
    }

    fn apply(&mut self, next: Transition<S>) {
        match next {
            Transition::Open(chunks, until) => self.state = ReaderState::Open(chunks, until),
            Transition::Read { ended } => self.finish_open(ended),
            Transition::Failed(error) => self.state = ReaderState::Done(Some(error)),
        }
    }

    /// Lets waiting lines overtake an unfinished one after [`HOLD_MAX`]. Ready if more records may
    /// be available.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waits = self.follow && self.tail.is_none() && !self.seek.needs_order();
        if !waits || !self.joiner.holds_back() {
            self.hold = None;
            return Poll::Pending;
        }
        let hold = self.hold.get_or_insert_with(|| Box::pin(sleep(HOLD_MAX)));
        ready!(hold.as_mut().poll(cx));
        self.hold = None;
        self.joiner.let_pass();
        Poll::Ready(())
    }

    /// Handles an open log without available chunks. Ready if the state of the reader has changed.
    fn poll_idle(&mut self, until: OpenUntil, cx: &mut Context<'_>) -> Poll<()> {
        if until == OpenUntil::Follow {
            self.watch_end();
            if let ContainerEnd::Watched(watched) = &mut self.ended
                && let Poll::Ready(ended) = watched.poll_unpin(cx)
            {
                self.ended =
                    if ended.is_ok() { ContainerEnd::Yes } else { ContainerEnd::Unwatched };
            }
        }
        let drains = until == OpenUntil::Follow && matches!(self.ended, ContainerEnd::Yes);
        if !drains && !self.seek.is_holding() {
            return Poll::Pending;
        }
        let silence = if drains { self.source.drained() } else { IDLE_MAX };
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(silence)));
        ready!(idle.as_mut().poll(cx));
        self.idle = None;
        if drains {
            tracing::debug!(
                "container has ended but its followed log is still open; reading the rest"
            );
            let (source, open) = (Arc::clone(&self.source), self.next_open());
            let backoff = self.backoff.clone();
            self.transition(async move { open_rest(&*source, open, backoff).await });
        } else {
            self.give_up();
        }
        Poll::Ready(())
    }
}

impl<S: LogSource> Stream for Reader<S> {
    type Item = Result<LogRecord>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(record) = this.pop() {
                return Poll::Ready(Some(Ok(record)));
            }
            if this.poll_hold(cx).is_ready() {
                continue;
            }
            match &mut this.state {
                ReaderState::Open(chunks, until) => {
                    let until = *until;
                    match Pin::new(chunks).poll_next(cx) {
                        Poll::Ready(Some(Ok(chunk))) => this.push_chunk(chunk),
                        Poll::Ready(Some(Err(error))) => this.cut_off(error),
                        Poll::Ready(None) => this.end_of_log(until),
                        Poll::Pending => ready!(this.poll_idle(until, cx)),
                    }
                }
                ReaderState::Pending(next) => {
                    let next = ready!(next.poll_unpin(cx));
                    this.apply(next);
                }
                ReaderState::Done(error) => return Poll::Ready(error.take().map(Err)),
            }
        }
    }
}

// No field is structurally pinned.
impl<S: LogSource> Unpin for Reader<S> {}
