//! The reader itself.

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
use super::place::{Place, Seen, Skip};
use super::reopen::{
    End, Next, Until, ended_within, has_ended, read, reopen, reopen_now, the_rest,
};
use super::seek::{Passed, Seek};
use super::tail::Tail;
use super::{LogSource, OpenLog, SKEW, Turn};

/// A log stands still for so long: then what is open gives no more.
const QUIET: Duration = Duration::from_secs(1);

/// How long lines wait for the end of a line of another stream.
const HOLD_MAX: Duration = Duration::from_millis(500);

/// A log of so many chunks is long.
const LONG_LOG: u64 = 8192;

/// How many chunks of a long log are asked for to find the last one that was taken.
const LOOK_BACK: u64 = 1024;

/// How often a tail that was cut off is read again.
const TAIL_RESUMES: u32 = 3;

/// The least and the most chunks that are asked for in a turn, to find the last one that was taken
/// and all after it.
const WINDOW: (u64, u64) = (64, 1 << 18);

/// How long the news of a container's end may lag behind the end of its log.
const LAG: Duration = Duration::from_millis(50);

pub(super) struct Reader<S: LogSource> {
    source: Arc<S>,
    follow: bool,
    max_line: usize,
    /// From when on the log was opened first. It is never opened for more than that.
    from: Option<SystemTime>,
    joiner: LineJoiner,
    seek: Seek,
    tail: Option<Tail>,
    /// The place after the last record that the tail left out, once that is known.
    left_out: Arc<OnceLock<LogCursor>>,
    place: Place,
    skip: Skip,
    /// How many chunks were taken.
    taken: u64,
    /// How many of them before this turn, of a log that is read in turns.
    taken_before: u64,
    /// What the last turn gave.
    turn: Turn,
    /// How many chunks are asked for in the next turn.
    window: u64,
    backoff: Backoff,
    session: Session<S>,
    /// Records that come before those of the joiner.
    ready: VecDeque<LogRecord>,
    ended: Ended,
    quiet: Option<Pin<Box<Sleep>>>,
    /// Runs while lines wait for the end of a line of another stream.
    hold: Option<Pin<Box<Sleep>>>,
    /// How many chunks had been taken when a log without follow was last cut off, and how often
    /// that was.
    resumed: (u64, u32),
}

enum Session<S: LogSource> {
    Open(S::Chunks, Until),
    Between(BoxFuture<'static, Next<S>>),
    /// Nothing comes after what is ready but this.
    Over(Option<Error>),
}

/// What is known of the container's end.
enum Ended {
    Unknown,
    Watched(End),
    /// It cannot be watched: it shows when the log ends.
    Unwatched,
    Yes,
}

impl<S: LogSource> Reader<S> {
    pub(super) async fn open(source: Arc<S>, options: LogOptions) -> Result<Self> {
        let mut follow = options.follow == Follow::Yes;
        let mut ended = Ended::Unknown;
        let from = match (options.since, options.after) {
            (Some(since), _) => source.open_since(since),
            (None, Some(after)) => {
                let begin = CursorSearch::begin(after);
                begin.checked_sub(SKEW).and_then(|time| source.open_since(time))
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
            ended = Ended::Yes;
        }
        let until = match (&tail, follow) {
            (None, true) => Until::Follow,
            _ if matches!(ended, Ended::Yes) => Until::End,
            _ => Until::Now,
        };
        let tail_chunks = tail.as_ref().and_then(Tail::asked);
        let since = from.filter(|_| tail_chunks.is_none() || source.has_tail());
        let chunks = source
            .open(OpenLog { since, tail: tail_chunks, follow: until == Until::Follow })
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
            place: Place::default(),
            skip: Skip::default(),
            taken: 0,
            taken_before: 0,
            turn: Turn::default(),
            window: WINDOW.0,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            session: Session::Open(chunks, until),
            ready: VecDeque::new(),
            ended,
            quiet: None,
            hold: None,
            resumed: (0, 0),
        })
    }

    /// Where the place is told that is after the last record that was left out by the tail, before
    /// the first record is given.
    pub(super) fn left_out(&self) -> Arc<OnceLock<LogCursor>> {
        Arc::clone(&self.left_out)
    }

    fn take(&mut self, chunk: Chunk) {
        self.quiet = None;
        match self.skip.look(&chunk) {
            Seen::Yes => return,
            Seen::Unclear => return self.look_further_back(),
            Seen::Gone(time) if self.is_lost(Some(time)) => return,
            Seen::Gone(_) | Seen::No => {}
        }
        self.backoff.reset();
        self.taken += 1;
        let by_chunks = self.tail.as_ref().is_some_and(|tail| tail.asked().is_some());
        self.place.take(&chunk, by_chunks);
        if let Some(tail) = &mut self.tail {
            tail.look(&chunk);
        }
        self.joiner.push(chunk);
    }

    /// The next record that is wanted, of those that are there.
    fn pop(&mut self) -> Option<LogRecord> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(record);
            }
            let record = self.joiner.pop()?;
            match self.seek.pass(record) {
                Passed::Wanted(record) => match &mut self.tail {
                    None => return Some(record),
                    Some(tail) => tail.take(record),
                },
                Passed::TooFar if self.give_up() => return None,
                Passed::TooFar | Passed::Over => {}
            }
        }
    }

    /// Looks for the place of the cursor no further. True if that ends the log.
    fn give_up(&mut self) -> bool {
        let lost = self.is_lost(self.seek.gone());
        if !lost {
            self.ready.append(&mut self.seek.give_up());
        }
        lost
    }

    /// Ends the log if the place of this time, that is no longer in it, is one that has to be.
    fn is_lost(&mut self, gone: Option<SystemTime>) -> bool {
        let Some(error) = gone.and_then(|time| self.source.thrown_away(time)) else { return false };
        // What is there may be the rest of a line, and what waits for it.
        self.joiner = LineJoiner::new(self.max_line);
        self.session = Session::Over(Some(error));
        true
    }

    /// The open log has ended by itself.
    fn end_of_log(&mut self, until: Until) {
        match until {
            Until::End if !self.skip.is_settled() => self.look_further_back(),
            Until::End => self.settle(true),
            Until::Now if !self.follow && !self.joiner.is_in_line() => self.settle(false),
            Until::Now if !self.follow => {
                let source = Arc::clone(&self.source);
                self.between(async move { read(has_ended(&*source).await) });
            }
            Until::Now => self.settle(false),
            Until::Follow if !self.source.follows() => self.next_turn(),
            // Docker ends a followed log when the container has ended, and can be ahead of the
            // last chunks of it. What is missing is only there for who asks again.
            Until::Follow => {
                let known = matches!(self.ended, Ended::Yes);
                let mut end = self.end();
                let (source, open) = (Arc::clone(&self.source), self.next_open());
                let backoff = self.backoff.clone();
                self.between(async move {
                    if known || ended_within(&mut end, LAG).await {
                        return the_rest(&*source, open, backoff).await;
                    }
                    match has_ended(&*source).await {
                        Ok(true) => the_rest(&*source, open, backoff).await,
                        Err(error) if !error.is_retryable() => Next::Failed(error),
                        Ok(false) | Err(_) => reopen(&*source, open, backoff, end).await,
                    }
                });
            }
        }
    }

    /// The end of the container, which is watched from now on. `None` when it is known or cannot be
    /// watched.
    fn end(&mut self) -> Option<End> {
        self.watch_end();
        match &self.ended {
            Ended::Watched(end) => Some(end.clone()),
            _ => None,
        }
    }

    /// A turn has reached the end of a log that is read in turns.
    fn next_turn(&mut self) {
        if !self.skip.is_settled() {
            return self.look_further_back();
        }
        let new = self.taken - self.taken_before;
        self.taken_before = self.taken;
        self.turn = Turn { new, dry: if new == 0 { self.turn.dry.saturating_add(1) } else { 0 } };
        if new > 0 {
            self.window = new.saturating_mul(2).clamp(WINDOW.0, WINDOW.1);
        }
        self.watch_end();
        let ended = match &self.ended {
            Ended::Watched(watched) => Some(watched.clone()),
            Ended::Yes => Some(std::future::ready(Ok(())).boxed().shared()),
            Ended::Unknown | Ended::Unwatched => None,
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
        self.between(async move {
            let next = tokio::select! {
                biased;
                () = ended => return the_rest(&*source, open, backoff).await,
                () = source.changed(turn) => reopen_now(&*source, open, backoff, None).await,
            };
            match next {
                // One that is gone has ended.
                Next::Failed(error) if error.kind() == ErrorKind::NotFound => {
                    Next::Read { ended: true }
                }
                next => next,
            }
        });
    }

    /// Has the end of the container watched from now on.
    fn watch_end(&mut self) {
        if let Ended::Unknown = self.ended {
            let source = Arc::clone(&self.source);
            let watched = async move { source.ended().await }.boxed();
            self.ended = Ended::Watched(watched.shared());
        }
    }

    /// The open log was cut off.
    fn cut_off(&mut self, error: Error) {
        if !error.is_retryable() || !(self.follow || self.resumes()) {
            self.session = Session::Over(Some(error));
            return;
        }
        tracing::debug!(%error, "a log was cut off and is opened again");
        // A follower takes its tail from what was read: what is missing comes to it in any case. Read
        // anew, the tail would be that of a later moment, without what was written meanwhile.
        if self.follow
            && let Some(tail) = &mut self.tail
        {
            tail.cut_off();
            if self.tail_is_known() && self.place.since().is_some() {
                return self.settle(false);
            }
        }
        self.go_on();
    }

    /// Whether a log without follow that was cut off is opened again: each open has to return more of
    /// it. A tail is read from its beginning each time, so that only the number of opens ends that.
    fn resumes(&mut self) -> bool {
        let (taken, opens) = self.resumed;
        self.resumed = (self.taken, opens + 1);
        self.source.resumes() && self.taken > taken && (self.tail.is_none() || opens < TAIL_RESUMES)
    }

    /// Opens the log where it was left.
    fn go_on(&mut self) {
        let source = Arc::clone(&self.source);
        let mut backoff = self.backoff.clone();
        // The delay is taken here too, so that failure after failure makes them longer.
        let _ = self.backoff.delay();
        if let Some(tail) = &mut self.tail {
            tail.restart(false);
            self.forget();
            return self.open_tail(Some(backoff.delay()));
        }
        let open = self.next_open();
        if self.follow {
            let end = self.end();
            self.between(async move { reopen(&*source, open, backoff, end).await });
            return;
        }
        let until = if let Ended::Yes = self.ended { Until::End } else { Until::Now };
        self.between(async move {
            sleep(backoff.delay()).await;
            match source.open(OpenLog { follow: false, ..open }).await {
                Ok(chunks) => Next::Open(chunks, until),
                Err(error) => Next::Failed(error),
            }
        });
    }

    /// All that there is was read; `ended` says whether that is all there will be.
    fn settle(&mut self, ended: bool) {
        if ended {
            self.joiner.finish();
        } else if !self.follow {
            // What waits for an unfinished line is there, and that line is no record yet.
            self.joiner.let_pass();
        }
        let Some(mut tail) = self.tail.take() else {
            let mut last = VecDeque::new();
            while let Some(record) = self.pop() {
                last.push_back(record);
            }
            // What was found to be lost has ended the log already.
            if !matches!(self.session, Session::Over(_)) && !self.give_up() {
                self.session = Session::Over(None);
            }
            last.append(&mut self.ready);
            self.ready = last;
            return;
        };
        while let Some(record) = self.joiner.pop() {
            // A tail goes with no cursor, so that nothing is held back.
            if let Passed::Wanted(record) = self.seek.pass(record) {
                tail.take(record);
            }
        }
        self.tail = Some(tail);
        if !self.tail_is_known() {
            if let Some(tail) = &mut self.tail {
                tail.restart(true);
            }
            self.forget();
            return self.open_tail(None);
        }
        let Some(tail) = self.tail.take() else { return };
        if let Some(left_out) = tail.left_out() {
            let _ = self.left_out.set(left_out);
        }
        self.ready = tail.into_records();
        if self.follow {
            // Nothing has gone wrong, so there is nothing to wait for.
            let (source, open) = (Arc::clone(&self.source), self.next_open());
            let (backoff, end) = (self.backoff.clone(), self.end());
            self.between(async move { reopen_now(&*source, open, backoff, end).await });
        } else {
            self.session = Session::Over(None);
        }
    }

    /// Whether what was read has the wanted tail, and a follower can go on after it.
    fn tail_is_known(&self) -> bool {
        let Some(tail) = &self.tail else { return false };
        if !tail.is_enough() {
            return false;
        }
        if !self.follow || tail.has_all() {
            return true;
        }
        // What waits for the end of a line comes to the follower, and has to be whole too.
        let mut rest = self.joiner.clone();
        rest.finish();
        let mut rest = std::iter::from_fn(|| rest.pop());
        self.place.is_certain() && rest.all(|record| tail.is_whole(&record))
    }

    /// Begins with the tail once more.
    fn forget(&mut self) {
        self.joiner = LineJoiner::new(self.max_line);
        self.place = Place::default();
        self.skip = Skip::default();
    }

    fn open_tail(&mut self, delay: Option<Duration>) {
        let source = Arc::clone(&self.source);
        let tail = self.tail.as_ref().and_then(Tail::asked);
        let since = self.from.filter(|_| tail.is_none() || self.source.has_tail());
        let open = OpenLog { since, tail, follow: false };
        let follow = self.follow;
        let until = if let Ended::Yes = self.ended { Until::End } else { Until::Now };
        let mut backoff = self.backoff.clone();
        self.between(async move {
            let mut delay = delay;
            loop {
                if let Some(delay) = delay {
                    sleep(delay).await;
                }
                match source.open(open).await {
                    Ok(chunks) => return Next::Open(chunks, until),
                    Err(error) if follow && error.is_retryable() => delay = Some(backoff.delay()),
                    Err(error) => return Next::Failed(error),
                }
            }
        });
    }

    /// How to open the log where it was left. An engine finds a time by reading all of the log, so
    /// that of a long one the last chunks are tried first.
    fn next_open(&mut self) -> OpenLog {
        let (long, tail) = match self.source.follows() {
            true => (LONG_LOG, LOOK_BACK),
            false => (WINDOW.0 * 2, self.window),
        };
        let tail = (self.taken >= long && self.source.has_tail()).then_some(tail);
        self.skip = self.place.skip(tail.is_some());
        // Later than what was opened first: chunks before that were never counted.
        OpenLog { since: self.place.since().max(self.from), tail, follow: true }
    }

    /// The last chunks were too few: opens the log where it was left by its time.
    fn look_further_back(&mut self) {
        let open = OpenLog { tail: None, ..self.next_open() };
        self.skip = self.place.skip(false);
        let (source, backoff) = (Arc::clone(&self.source), self.backoff.clone());
        let end = self.end();
        self.between(async move { reopen_now(&*source, open, backoff, end).await });
    }

    fn between(&mut self, next: impl Future<Output = Next<S>> + Send + 'static) {
        self.quiet = None;
        self.session = Session::Between(Box::pin(next));
    }

    fn enter(&mut self, next: Next<S>) {
        match next {
            Next::Open(chunks, until) => self.session = Session::Open(chunks, until),
            Next::Read { ended } => self.settle(ended),
            Next::Failed(error) => self.session = Session::Over(Some(error)),
        }
    }

    /// Lets lines that have waited for long overtake an unfinished one. Ready when there may be
    /// records because of that.
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

    /// The open log has nothing to give now. Ready when that changes what is to be done.
    fn poll_quiet(&mut self, until: Until, cx: &mut Context<'_>) -> Poll<()> {
        if until == Until::Follow {
            self.watch_end();
            if let Ended::Watched(watched) = &mut self.ended
                && let Poll::Ready(ended) = watched.poll_unpin(cx)
            {
                self.ended = if ended.is_ok() { Ended::Yes } else { Ended::Unwatched };
            }
        }
        let drains = until == Until::Follow && matches!(self.ended, Ended::Yes);
        if !drains && !self.seek.is_holding() {
            return Poll::Pending;
        }
        let silence = if drains { self.source.drained() } else { QUIET };
        let quiet = self.quiet.get_or_insert_with(|| Box::pin(sleep(silence)));
        ready!(quiet.as_mut().poll(cx));
        self.quiet = None;
        if drains {
            tracing::debug!("a container has ended and its followed log has not: it is read anew");
            let (source, open) = (Arc::clone(&self.source), self.next_open());
            let backoff = self.backoff.clone();
            self.between(async move { the_rest(&*source, open, backoff).await });
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
            match &mut this.session {
                Session::Open(chunks, until) => {
                    let until = *until;
                    match Pin::new(chunks).poll_next(cx) {
                        Poll::Ready(Some(Ok(chunk))) => this.take(chunk),
                        Poll::Ready(Some(Err(error))) => this.cut_off(error),
                        Poll::Ready(None) => this.end_of_log(until),
                        Poll::Pending => ready!(this.poll_quiet(until, cx)),
                    }
                }
                Session::Between(next) => {
                    let next = ready!(next.poll_unpin(cx));
                    this.enter(next);
                }
                Session::Over(error) => return Poll::Ready(error.take().map(Err)),
            }
        }
    }
}

// Its fields are moved freely: no pin is projected to them.
impl<S: LogSource> Unpin for Reader<S> {}
