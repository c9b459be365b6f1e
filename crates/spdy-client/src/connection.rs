//! Connections.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::codec::{ControlFrame, Headers};
use crate::state::{Handle, Shared};
use crate::{Driver, Error, Stream};

/// Configuration of a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Maximum number of received and unread bytes per stream, after which reading from the
    /// transport stops (256 KiB; at least 1). It is exceeded by at most 64 KiB.
    pub receive_buffer: usize,
    /// Maximum number of unsent bytes per stream, after which a write waits (128 KiB).
    pub send_buffer: usize,
    /// Interval of the pings on an idle connection, which keep proxies from closing it. `None` by
    /// default.
    pub keep_alive: Option<Duration>,
    /// Time without received bytes, with [`keep_alive`](Self::keep_alive), after which the
    /// connection ends with [`Error::Silent`]. `None` by default. The time does not count while the
    /// peer may be waiting for a process that does not read its input, because such a server stops
    /// reading and does not respond.
    pub silence_limit: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            receive_buffer: 256 * 1024,
            send_buffer: 128 * 1024,
            keep_alive: None,
            silence_limit: None,
        }
    }
}

impl Config {
    /// Sets the size of the receive buffer of a stream.
    #[must_use]
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// Sets the size of the send buffer of a stream.
    #[must_use]
    pub const fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// Sets the ping interval.
    #[must_use]
    pub const fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = Some(interval);
        self
    }

    /// Sets the time without received bytes after which the connection ends.
    #[must_use]
    pub const fn silence_limit(mut self, limit: Duration) -> Self {
        self.silence_limit = Some(limit);
        self
    }
}

/// Handle of a connection. Clones share the connection, which is closed when the last clone and the
/// last part of its streams are dropped.
#[derive(Debug, Clone)]
pub struct Connection {
    handle: Handle,
}

impl Connection {
    /// Creates a connection over `io`, which must be at the start of SPDY, and the driver future
    /// that performs its I/O. The driver must be polled. It completes, and drops `io`, when the
    /// connection has ended or all handles are dropped.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the header compression fails to start.
    pub fn new<T>(io: T, config: Config) -> Result<(Self, Driver<T>), Error>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let (keep_alive, silence_limit) = (config.keep_alive, config.silence_limit);
        let shared = Arc::new(Shared::new(config)?);
        let handle = Handle::new(Arc::clone(&shared));
        Ok((Self { handle }, Driver::new(io, shared, keep_alive, silence_limit)))
    }

    /// Creates a connection over `io` whose driver runs in a task, which ends when the connection
    /// has ended or all handles are dropped.
    ///
    /// # Errors
    /// Same as [`Connection::new`].
    ///
    /// # Panics
    /// If called outside of a tokio runtime.
    pub fn spawn<T>(io: T, config: Config) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (connection, driver) = Self::new(io, config)?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                // Waiting callers receive the same error.
                tracing::debug!(%error, "SPDY connection ended");
            }
        });
        Ok(connection)
    }

    /// Opens a stream without waiting for the peer's response, which [`Stream::reply`] returns.
    /// `fin` finishes the write half immediately.
    ///
    /// # Errors
    /// The reason why the connection accepts no more streams; [`Error::Protocol`] for headers that
    /// are too large.
    pub fn open_stream(&self, headers: Headers, fin: bool) -> Result<Stream, Error> {
        let id = self.handle.shared().lock().open(headers, fin)?;
        Ok(Stream::new(&self.handle, id))
    }

    /// Sends a ping and waits for the response; returns the round-trip time.
    ///
    /// # Errors
    /// The reason for the end of the connection.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let (sender, receiver) = oneshot::channel();
        let start = Instant::now();
        self.handle.shared().lock().ping(sender)?;
        match receiver.await {
            Ok(()) => Ok(start.elapsed()),
            Err(_) => Err(self.handle.shared().lock().end().unwrap_or(Error::Closed)),
        }
    }

    /// Sends `GOAWAY` and ends the connection after all written bytes have been passed to the
    /// transport. Open streams end with [`Error::Closed`]. Closing a closed connection is not an
    /// error. Dropping the future does not cancel the close.
    ///
    /// # Errors
    /// The reason for an earlier end of the connection.
    pub async fn close(&self) -> Result<(), Error> {
        {
            let mut state = self.handle.shared().lock();
            if state.end().is_none() && !state.closing {
                state.control(&ControlFrame::GoAway { last_good_stream_id: 0, status: 0 })?;
                state.closing = true;
                state.wake_driver();
            }
        }
        poll_fn(|context| {
            let mut state = self.handle.shared().lock();
            match state.end() {
                None => {
                    state.on_end(context.waker());
                    Poll::Pending
                }
                Some(Error::Closed) => Poll::Ready(Ok(())),
                Some(error) => Poll::Ready(Err(error)),
            }
        })
        .await
    }
}
