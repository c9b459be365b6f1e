//! I/O of a connection.

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

/// Size of the read buffer in bytes.
const READ_SIZE: usize = 64 * 1024;

/// Future that performs the I/O of a [`Connection`](crate::Connection). It returns `Ok` when either
/// side has closed the connection or all handles are dropped, and otherwise the error that ended
/// the connection. Dropping the driver ends the connection.
#[must_use = "a connection does nothing unless its driver is polled"]
pub struct Driver<T> {
    io: T,
    shared: Arc<Shared>,
    decoder: Decoder,
    input: Box<[u8]>,
    /// Start of the bytes in `input` that are not decoded yet.
    start: usize,
    end: usize,
    /// Set if bytes were written since the last flush.
    needs_flush: bool,
    write_failed: bool,
    period: Option<Duration>,
    ticks: Option<Interval>,
    silence_limit: Option<Duration>,
    /// Set if a buffer was full at the last read.
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
            needs_flush: false,
            write_failed: false,
            // A zero interval disables pings.
            period: keep_alive.filter(|period| !period.is_zero()),
            ticks: None,
            silence_limit,
            is_paused: false,
        }
    }

    /// Decodes received bytes while there is room in the buffers; returns true if all were decoded.
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
    /// Reads and decodes until the transport has no more bytes or a buffer is full. Ready at the
    /// end of the transport.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            let was_paused = self.is_paused;
            self.is_paused = !self.decode()?;
            if self.is_paused {
                return Poll::Pending;
            }
            if was_paused {
                self.shared.lock().liveness.record_activity();
            }
            let mut buffer = ReadBuf::new(&mut self.input);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer))?;
            (self.start, self.end) = (0, buffer.filled().len());
            if self.end == 0 {
                return Poll::Ready(Ok(()));
            }
            self.shared.lock().liveness.record_activity();
        }
    }

    /// Writes until the queue is empty (ready) or the transport is full (pending).
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // The lock is not held during the call to the transport, which can take long.
            let front = self.shared.lock().outgoing.front().map(|frame| frame.bytes.clone());
            let Some(bytes) = front else { break };
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.needs_flush = true;
            let mut state = self.shared.lock();
            if let Some(frame) = state.outgoing.front_mut() {
                frame.bytes.advance(written.min(bytes.len()));
                if frame.bytes.is_empty() {
                    state.sent();
                }
            }
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_keep_alive(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some(period) = self.period else { return Ok(()) };
        let ticks = self.ticks.get_or_insert_with(|| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick of an interval is immediate.
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
            // All available bytes were read.
            if let (Some(_), Some(limit), false) = (self.period, self.silence_limit, self.is_paused)
                && self.shared.lock().liveness.is_dead(limit)
            {
                return Poll::Ready(Err(Error::Silent));
            }
            let full = self.shared.lock().is_full();
            if self.write_failed {
                // Nothing can be sent any more, `GOAWAY` included.
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
                    // The peer may have sent the reason before it stopped reading.
                    self.write_failed = true;
                    self.shared.lock().fail_writing(error.into());
                    continue;
                }
                Poll::Pending => {}
            }
            // The responses that stopped the reading may have been sent.
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
