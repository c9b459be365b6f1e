//! A stream that coalesces small pieces before they are read.
//!
//! A node sends each line of a log in a piece of its own, and the API server forwards it as one. A
//! faster reader is woken for each piece, and competes with the server if they share processors.
//! With the delays it reads some tens of lines at a time, and a server that has filled the window
//! of its reader ([`crate::client::transport::http2`]) sends hundreds.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Delay before a read within a burst.
const COALESCE_DELAY: Duration = Duration::from_millis(4);

/// Maximum gap between the pieces of a burst.
const BURST_GAP_MAX: Duration = Duration::from_millis(4);

/// Number of reads in a burst before a delay. Short responses and single lines are not delayed.
const BURST_READS: u32 = 32;

/// A connection whose small pieces are coalesced.
#[derive(Debug)]
pub(crate) struct CoalescingStream<T> {
    inner: T,
    pause: Option<Pin<Box<Sleep>>>,
    /// The time of the last read, and the number of reads in the current burst.
    last: Instant,
    row: u32,
}

impl<T> CoalescingStream<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, pause: None, last: Instant::now(), row: 0 }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for CoalescingStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        // A full buffer means that more data is ready.
        if buf.remaining() > 0 {
            let now = Instant::now();
            let soon = now.duration_since(self.last) < BURST_GAP_MAX;
            self.row = if soon { self.row + 1 } else { 0 };
            self.last = now;
            if self.row >= BURST_READS {
                self.row = 0;
                self.pause = Some(Box::pin(sleep(COALESCE_DELAY)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for CoalescingStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Returns the number of reads for so many pieces with `apart` in between.
    async fn reads(pieces: usize, apart: impl AsyncFn()) -> usize {
        let (mut theirs, ours) = tokio::io::duplex(1 << 16);
        let mut ours = CoalescingStream::new(ours);
        let send = async move {
            for _ in 0..pieces {
                theirs.write_all(b"line").await.unwrap();
                apart().await;
            }
        };
        let read = async move {
            let (mut reads, mut bytes, mut buffer) = (0, 0, vec![0; 4096]);
            loop {
                match ours.read(&mut buffer).await.unwrap() {
                    0 => break,
                    read => (reads, bytes) = (reads + 1, bytes + read),
                }
            }
            assert_eq!(bytes, pieces * 4);
            reads
        };
        tokio::join!(send, read).1
    }

    #[tokio::test(start_paused = true)]
    async fn bursts_are_coalesced_and_slow_pieces_are_not() {
        // Without the delays each piece would be read before the next is sent.
        let fast = reads(10_000, tokio::task::yield_now).await;
        assert!(fast < 200, "{fast} reads");
        assert_eq!(reads(100, || sleep(BURST_GAP_MAX)).await, 100);
        let begun = Instant::now();
        reads(30, tokio::task::yield_now).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "short bursts are not delayed");
    }
}
