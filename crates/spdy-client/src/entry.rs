//! What is known of one stream.

use std::task::Waker;

use bytes::BytesMut;

use crate::Error;
use crate::codec::Headers;

/// A stream.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) received: BytesMut,
    /// Whether any byte ever came.
    pub(crate) touched: bool,
    pub(crate) receiving: Receiving,
    pub(crate) reply: Option<Headers>,
    /// The read half, or the reply, is waited for by this.
    pub(crate) reader: Option<Waker>,
    pub(crate) sending: Sending,
    /// Bytes of the stream that wait for the transport.
    pub(crate) queued: usize,
    /// Whether bytes that waited will not go out any more.
    pub(crate) lost: bool,
    pub(crate) writer: Option<Waker>,
    /// Whether the two halves are there still.
    pub(crate) read_half: bool,
    pub(crate) write_half: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Receiving {
    Open,
    Finished,
    Failed(Error),
}

#[derive(Debug, Clone)]
pub(crate) enum Sending {
    Open,
    Finished,
    Failed(Error),
}

impl Entry {
    /// A stream that was just asked for; `fin` when nothing will be sent.
    pub(crate) fn new(fin: bool) -> Self {
        Self {
            received: BytesMut::new(),
            touched: false,
            receiving: Receiving::Open,
            reply: None,
            reader: None,
            sending: if fin { Sending::Finished } else { Sending::Open },
            queued: 0,
            lost: false,
            writer: None,
            read_half: true,
            write_half: true,
        }
    }

    pub(crate) fn fail(&mut self, error: &Error) {
        if matches!(self.receiving, Receiving::Open) {
            self.receiving = Receiving::Failed(error.clone());
        }
        self.fail_sending(error);
        wake(&mut self.reader);
    }

    pub(crate) fn fail_sending(&mut self, error: &Error) {
        self.lost |= self.queued > 0;
        // A finished half whose bytes have all gone out has succeeded.
        if matches!(self.sending, Sending::Open) || self.queued > 0 {
            self.sending = Sending::Failed(error.clone());
        }
        wake(&mut self.writer);
    }

    pub(crate) fn finish_receiving(&mut self) {
        if matches!(self.receiving, Receiving::Open) {
            self.receiving = Receiving::Finished;
        }
        wake(&mut self.reader);
    }
}

pub(crate) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
