//! What moves the bytes of a connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::Error;
use crate::codec::Decoder;
use crate::state::Shared;

/// How many bytes are read from the transport at once.
const READ_SIZE: usize = 64 * 1024;

/// Moves the bytes of a [`Connection`](crate::Connection) while it is polled. It ends with `Ok`
/// when the connection was closed, by either side, or nothing of it is left, and with the error
/// that ended it otherwise. Dropping it ends the connection.
#[must_use = "a connection does nothing unless its driver is polled"]
pub struct Driver<T> {
    io: T,
    shared: Arc<Shared>,
    decoder: Decoder,
    input: Box<[u8]>,
    /// The part of `input` that was read and is not decoded yet.
    start: usize,
    end: usize,
    /// Whether bytes were written after the last flush.
    dirty: bool,
    write_failed: bool,
    period: Option<Duration>,
    ticks: Option<Interval>,
    silence_limit: Option<Duration>,
    /// Whether a buffer was full when it was last read.
    is_paused: bool,
}

impl<T> Driver<T> {
    pub(crate) fn new(
        io: T,
        shared: Arc<Shared>,
        keep_alive: Option<Duration>,
        silence_limit: Option<Duration>,
    ) -> Self {
        Self {
            io,
            shared,
            decoder: Decoder::new(),
            input: vec![0; READ_SIZE].into_boxed_slice(),
            start: 0,
            end: 0,
            dirty: false,
            write_failed: false,
            // Zero is no period.
            period: keep_alive.filter(|period| !period.is_zero()),
            ticks: None,
            silence_limit,
            is_paused: false,
        }
    }

    /// Decodes what was read, as far as there is room for it; whether all of it was.
    fn decode(&mut self) -> Result<bool, Error> {
        let mut state = self.shared.lock();
        while !state.is_full() {
            let mut rest = &self.input[self.start..self.end];
            let decoded = self.decoder.next(&mut rest)?;
            self.start = self.end - rest.len();
            match decoded {
                Some(decoded) => state.accept(decoded)?,
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Reads and decodes until the transport has nothing or a buffer is full. Ready at the end of
    /// the transport.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let was_paused = self.is_paused;
            self.is_paused = !self.decode()?;
            if self.is_paused {
                return Poll::Pending;
            }
            if was_paused {
                self.shared.lock().silence.broken();
            }
            let mut buffer = ReadBuf::new(&mut self.input);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer))?;
            (self.start, self.end) = (0, buffer.filled().len());
            if self.end == 0 {
                return Poll::Ready(Ok(()));
            }
            self.shared.lock().silence.broken();
        }
    }

    /// Writes until the queue is empty, which is ready, or the transport is full.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // The transport is called without the lock: it may take its time.
            let front = self.shared.lock().outgoing.front().map(|frame| frame.bytes.clone());
            let Some(bytes) = front else { break };
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.dirty = true;
            let mut state = self.shared.lock();
            if let Some(frame) = state.outgoing.front_mut() {
                frame.bytes.advance(written.min(bytes.len()));
                if frame.bytes.is_empty() {
                    state.sent();
                }
            }
        }
        if self.dirty {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.dirty = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_keep_alive(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some(period) = self.period else { return Ok(()) };
        let ticks = self.ticks.get_or_insert_with(|| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick is at once.
            ticks.reset();
            ticks
        });
        while ticks.poll_tick(context).is_ready() {
            self.shared.lock().keep_alive(period / 2)?;
        }
        Ok(())
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        {
            let mut state = self.shared.lock();
            state.on_work(context.waker());
            if state.handles == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_keep_alive(context)?;
        loop {
            if let Poll::Ready(end) = self.poll_read(context) {
                return Poll::Ready(end);
            }
            // All that has arrived was read.
            if let (Some(_), Some(limit), false) = (self.period, self.silence_limit, self.is_paused)
                && self.shared.lock().silence.is_over(limit)
            {
                return Poll::Ready(Err(Error::Silent));
            }
            let full = self.shared.lock().is_full();
            if self.write_failed {
                // Nothing can be said any more, a good-bye included.
                let closing = self.shared.lock().closing;
                return if closing { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            match self.poll_write(context) {
                Poll::Ready(Ok(())) => {
                    if self.shared.lock().closing {
                        return Pin::new(&mut self.io).poll_shutdown(context).map_err(Error::from);
                    }
                }
                Poll::Ready(Err(error)) => {
                    // The other side may have said why before it stopped listening.
                    self.write_failed = true;
                    self.shared.lock().fail_writing(error.into());
                    continue;
                }
                Poll::Pending => {}
            }
            // The answers that stopped the reading may have gone out.
            if !full || self.shared.lock().is_full() {
                return Poll::Pending;
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let end = ready!(self.poll_end(context));
        let error = end.as_ref().err().cloned().unwrap_or(Error::Closed);
        self.shared.lock().finish(&error);
        Poll::Ready(end)
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.shared.lock().finish(&Error::Closed);
    }
}

impl<T> fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
