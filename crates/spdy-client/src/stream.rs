//! Streams of a connection.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Error;
use crate::codec::{Headers, ResetStatus};
use crate::entry::{Entry, Receiving, Sending};
use crate::state::{Handle, State};

/// Maximum payload of a sent data frame. The server buffers whole frames, up to fifty per stream.
const MAX_DATA: usize = 32 * 1024;

/// Stream, open in both directions until it is split, finished, reset or dropped. Dropping it
/// resets the stream unless the peer has finished.
#[derive(Debug)]
pub struct Stream {
    // Drop order: the write half finishes the stream before the read half resets it.
    write: WriteHalf,
    read: ReadHalf,
}

/// Read half of a stream. Dropping it discards received and future bytes.
///
/// The receive buffer is bounded; while the buffer of one stream is full, no other stream of the
/// connection receives bytes.
#[derive(Debug)]
pub struct ReadHalf {
    handle: Handle,
    id: u32,
}

/// Write half of a stream. Dropping it finishes the stream in this direction, like
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown).
///
/// A flush completes when all bytes of the stream have been passed to the transport.
#[derive(Debug)]
pub struct WriteHalf {
    handle: Handle,
    id: u32,
}

/// Weak view of a stream, which must be kept alive elsewhere.
#[derive(Debug)]
pub(crate) struct Probe {
    handle: Handle,
    id: u32,
}

impl Probe {
    /// Returns true if any byte of the stream was received.
    pub(crate) fn has_received(&self) -> bool {
        self.handle.shared().lock().streams.get(&self.id).is_some_and(|entry| entry.has_received)
    }
}

impl Stream {
    pub(crate) fn new(handle: &Handle, id: u32) -> Self {
        let write = WriteHalf { handle: handle.clone(), id };
        Self { write, read: ReadHalf { handle: handle.clone(), id } }
    }

    /// Returns the stream id.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.read.id
    }

    /// Waits until the peer has accepted the stream. Later calls return the same headers
    /// immediately. The headers of later `HEADERS` frames are discarded.
    ///
    /// # Errors
    /// [`Error::Reset`] if the stream was refused, or the reason for the end of the connection.
    pub async fn reply(&mut self) -> Result<Headers, Error> {
        let id = self.id();
        poll_fn(|context| {
            let mut state = self.read.handle.shared().lock();
            let Some(entry) = state.streams.get_mut(&id) else {
                return Poll::Ready(Err(Error::Closed));
            };
            match (&entry.reply, &entry.receiving) {
                (Some(headers), _) => Poll::Ready(Ok(headers.clone())),
                (None, Receiving::Failed(error)) => Poll::Ready(Err(error.clone())),
                (None, _) => {
                    register(&mut entry.reader, context.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Ends the stream immediately in both directions and discards unread bytes.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the frame fails to encode, which does not happen.
    pub fn reset(self, status: ResetStatus) -> Result<(), Error> {
        self.read.handle.shared().lock().reset(self.id(), status)
    }

    /// Splits the stream into its halves.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }
}

impl ReadHalf {
    /// Returns the next bytes, or `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// After the last byte, [`Error::Reset`] or the reason for the end of the connection.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    /// Polls for the result of [`chunk`](Self::chunk).
    ///
    /// # Errors
    /// Same as [`chunk`](Self::chunk).
    pub fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        self.poll_take(context, |entry| entry.received.split().freeze())
    }

    /// Returns a weak view of the stream.
    pub(crate) fn probe(&self) -> Probe {
        Probe { handle: self.handle.clone(), id: self.id }
    }

    fn poll_take<T>(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(&mut Entry) -> T,
    ) -> Poll<Result<Option<T>, Error>> {
        let mut state = self.handle.shared().lock();
        let bound = state.receive_buffer();
        let Some(entry) = state.streams.get_mut(&self.id) else {
            return Poll::Ready(Err(Error::Closed));
        };
        if !entry.received.is_empty() {
            let was_full = entry.received.len() >= bound;
            let taken = take(entry);
            if was_full && entry.received.len() < bound {
                state.wake_driver();
            }
            return Poll::Ready(Ok(Some(taken)));
        }
        match &entry.receiving {
            Receiving::Finished => Poll::Ready(Ok(None)),
            Receiving::Failed(error) => Poll::Ready(Err(error.clone())),
            Receiving::Open => {
                register(&mut entry.reader, context.waker());
                Poll::Pending
            }
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let taken = self.poll_take(context, |entry| {
            let length = buffer.remaining().min(entry.received.len());
            buffer.put_slice(&entry.received[..length]);
            entry.received.advance(length);
        });
        taken.map(|result| result.map(|_| ()).map_err(Into::into))
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        let mut state = self.handle.shared().lock();
        if let Some(entry) = state.streams.get_mut(&self.id) {
            entry.read_half = false;
            entry.received.clear();
        }
        state.release(self.id);
        // The connection may be waiting for room in this buffer.
        state.wake_driver();
    }
}

impl WriteHalf {
    /// Writes all of `bytes` and waits until they have been passed to the transport. If the future
    /// is dropped, a part may have been written.
    ///
    /// # Errors
    /// [`Error::Finished`] after the end of this direction, [`Error::Reset`], or the reason for the
    /// end of the connection.
    pub async fn send(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let written = poll_fn(|context| self.poll_send(context, bytes)).await?;
            bytes = &bytes[written..];
        }
        poll_fn(|context| self.poll_sent(context)).await
    }

    /// Finishes this direction, which the peer reads as the end of the stream. Returns when that
    /// has been passed to the transport. Finishing a finished stream is not an error.
    ///
    /// # Errors
    /// [`Error::Reset`], or the reason for the end of the connection.
    pub async fn finish(&mut self) -> Result<(), Error> {
        poll_fn(|context| self.poll_finish(context)).await
    }

    fn poll_send(&mut self, context: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        let mut state = self.handle.shared().lock();
        let (bound, length) = (state.send_buffer(), bytes.len().min(MAX_DATA));
        // A stream with an empty queue may send more than the bound.
        let room = |entry: &Entry| entry.queued == 0 || entry.queued + length <= bound;
        ready!(Self::poll_room(&mut state, self.id, context, room))?;
        let open = state.streams.get(&self.id).is_some_and(|e| matches!(e.sending, Sending::Open));
        if !open {
            return Poll::Ready(Err(Error::Finished));
        }
        if length > 0 {
            state.data(self.id, false, &bytes[..length])?;
        }
        Poll::Ready(Ok(length))
    }

    fn poll_sent(&mut self, context: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.handle.shared().lock();
        if state.streams.get(&self.id).is_some_and(|entry| entry.queued == 0 && !entry.send_lost) {
            // A later end of the connection does not affect it.
            return Poll::Ready(Ok(()));
        }
        Self::poll_room(&mut state, self.id, context, |entry| entry.queued == 0)
    }

    fn poll_finish(&mut self, context: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.handle.shared().lock();
        Self::end(&mut state, self.id)?;
        Self::poll_room(&mut state, self.id, context, |entry| entry.queued == 0)
    }

    /// Waits until the queue of the stream satisfies `has_room`.
    fn poll_room(
        state: &mut State,
        id: u32,
        context: &Context<'_>,
        has_room: impl FnOnce(&Entry) -> bool,
    ) -> Poll<Result<(), Error>> {
        let Some(entry) = state.streams.get_mut(&id) else {
            return Poll::Ready(Err(Error::Closed));
        };
        if let Sending::Failed(error) = &entry.sending {
            return Poll::Ready(Err(error.clone()));
        }
        if has_room(entry) {
            return Poll::Ready(Ok(()));
        }
        register(&mut entry.writer, context.waker());
        Poll::Pending
    }

    /// Ends this direction, once.
    fn end(state: &mut State, id: u32) -> Result<(), Error> {
        match state.streams.get_mut(&id) {
            Some(entry) if matches!(entry.sending, Sending::Open) => {
                entry.sending = Sending::Finished;
                state.data(id, true, &[])
            }
            _ => Ok(()),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, bytes).map_err(Into::into)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(context).map_err(Into::into)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(context).map_err(Into::into)
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        let mut state = self.handle.shared().lock();
        // Encoding an empty data frame cannot fail.
        let _ = Self::end(&mut state, self.id);
        if let Some(entry) = state.streams.get_mut(&self.id) {
            entry.write_half = false;
        }
        state.release(self.id);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(context)
    }
}

fn register(slot: &mut Option<Waker>, waker: &Waker) {
    match slot {
        Some(known) if known.will_wake(waker) => {}
        _ => *slot = Some(waker.clone()),
    }
}
