//! A connection as its user sees it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::codec::{ControlFrame, Headers};
use crate::state::{Handle, Shared};
use crate::{Driver, Error, Stream};

/// The settings of a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// How many received bytes of one stream wait for its reader before the connection is read no
    /// further (256 KiB; at least 1). It is exceeded by at most 64 KiB.
    pub receive_buffer: usize,
    /// How many bytes of one stream wait for the transport before a write waits (128 KiB).
    pub send_buffer: usize,
    /// Interval of the pings on a connection on which nothing arrives, so that no proxy closes it as
    /// idle. Absent by default.
    pub keep_alive: Option<Duration>,
    /// How long the other side may send nothing, with [`keep_alive`](Self::keep_alive), before the
    /// connection ends with [`Error::Silent`]. Absent by default. It does not count while the other
    /// side may be waiting for a process that does not read its input: such a server reads no further
    /// and does not answer.
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
    /// Bounds the received bytes of one stream.
    #[must_use]
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// Bounds the bytes of one stream that wait for the transport.
    #[must_use]
    pub const fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// Sends a ping that often.
    #[must_use]
    pub const fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = Some(interval);
        self
    }

    /// Ends the connection when the other side has been silent for that long.
    #[must_use]
    pub const fn silence_limit(mut self, limit: Duration) -> Self {
        self.silence_limit = Some(limit);
        self
    }
}

/// A connection. Clones are the same connection; it lives as long as a clone or a part of one of
/// its streams does.
#[derive(Debug, Clone)]
pub struct Connection {
    handle: Handle,
}

impl Connection {
    /// A connection over `io`, which is at the point where SPDY begins, and the future that moves
    /// its bytes: nothing happens unless that is polled. It ends, and lets go of `io`, when the
    /// connection has ended or nothing of it is left.
    ///
    /// # Errors
    /// [`Error::Protocol`] when the header compression cannot be set up.
    pub fn new<T>(io: T, config: Config) -> Result<(Self, Driver<T>), Error>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let (keep_alive, silence_limit) = (config.keep_alive, config.silence_limit);
        let shared = Arc::new(Shared::new(config)?);
        let handle = Handle::new(Arc::clone(&shared));
        Ok((Self { handle }, Driver::new(io, shared, keep_alive, silence_limit)))
    }

    /// A connection over `io` whose bytes are moved by a task of its own, which ends when the
    /// connection does or nothing of it is left.
    ///
    /// # Errors
    /// As [`Connection::new`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn<T>(io: T, config: Config) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (connection, driver) = Self::new(io, config)?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                // Whoever waits on the connection is given the same error.
                tracing::debug!(%error, "SPDY connection ended");
            }
        });
        Ok(connection)
    }

    /// Opens a stream. This does not wait: the other side's answer is [`Stream::reply`]. `fin` says
    /// that nothing will be written to it.
    ///
    /// # Errors
    /// Why the connection takes no more streams; [`Error::Protocol`] for headers that are too large.
    pub fn open_stream(&self, headers: Headers, fin: bool) -> Result<Stream, Error> {
        let id = self.handle.shared().lock().open(headers, fin)?;
        Ok(Stream::new(&self.handle, id))
    }

    /// Sends a ping and waits for its answer; returns the time between.
    ///
    /// # Errors
    /// Why the connection ended.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let (sender, receiver) = oneshot::channel();
        let start = Instant::now();
        self.handle.shared().lock().ping(sender)?;
        match receiver.await {
            Ok(()) => Ok(start.elapsed()),
            Err(_) => Err(self.handle.shared().lock().end().unwrap_or(Error::Closed)),
        }
    }

    /// Says good-bye and ends the connection, after everything that was written has been handed to
    /// the transport. Streams that are still open end with [`Error::Closed`]. Doing it again is no
    /// error; dropping the future leaves the connection closing.
    ///
    /// # Errors
    /// Why the connection ended before that.
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
