//! Connections that can be frozen and cut.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// State of all connections of a server.
#[derive(Debug, Default)]
pub(super) struct Switch {
    /// Connections with a smaller number are frozen.
    frozen_below: AtomicU64,
    /// Connections with a smaller number are cut.
    cut_below: AtomicU64,
    next: AtomicU64,
    refuses: AtomicBool,
    wakers: Mutex<Vec<Weak<Wakers>>>,
}

#[derive(Debug, Default)]
struct Wakers {
    read: AtomicWaker,
    write: AtomicWaker,
}

impl Switch {
    /// Freezes the open connections, and with `all` also those that are opened later.
    pub(super) fn freeze(&self, all: bool) {
        let below = if all { u64::MAX } else { self.next.load(Ordering::SeqCst) };
        self.frozen_below.store(below, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn thaw(&self) {
        self.frozen_below.store(0, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn cut(&self) {
        self.cut_below.store(self.next.load(Ordering::SeqCst), Ordering::SeqCst);
        self.wake();
    }

    /// Sets whether new connections are closed at once.
    pub(super) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Returns the number of connections that were opened so far.
    pub(super) fn opened(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        let mut wakers = self.wakers.lock().unwrap();
        wakers.retain(|wakers| wakers.strong_count() > 0);
        for wakers in wakers.iter().filter_map(Weak::upgrade) {
            wakers.read.wake();
            wakers.write.wake();
        }
    }

    /// Registers a new connection; returns `None` if it is refused.
    pub(super) fn take(self: &Arc<Self>, tcp: TcpStream) -> Option<Connection> {
        if self.refuses.load(Ordering::SeqCst) {
            return None;
        }
        let wakers = Arc::default();
        self.wakers.lock().unwrap().push(Arc::downgrade(&wakers));
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        Some(Connection { tcp, number, wakers, switch: Arc::clone(self) })
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    tcp: TcpStream,
    number: u64,
    wakers: Arc<Wakers>,
    switch: Arc<Switch>,
}

impl Connection {
    fn check(&self) -> Poll<io::Result<()>> {
        if self.number < self.switch.cut_below.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.number < self.switch.frozen_below.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.wakers.read.register(cx.waker());
        std::task::ready!(self.check())?;
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.wakers.write.register(cx.waker());
        std::task::ready!(self.check())?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wakers.write.register(cx.waker());
        std::task::ready!(self.check())?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
