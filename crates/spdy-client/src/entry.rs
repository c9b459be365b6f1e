//! State of one stream.

use std::task::Waker;

use bytes::BytesMut;

use crate::Error;
use crate::codec::Headers;

/// Stream state.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) received: BytesMut,
    /// Set if any byte was received.
    pub(crate) has_received: bool,
    pub(crate) receiving: Receiving,
    pub(crate) reply: Option<Headers>,
    /// Waker of the task that waits for data or for the reply.
    pub(crate) reader: Option<Waker>,
    pub(crate) sending: Sending,
    /// Number of bytes that are queued for the transport.
    pub(crate) queued: usize,
    /// Set if queued bytes will not be sent any more.
    pub(crate) send_lost: bool,
    pub(crate) writer: Option<Waker>,
    /// Set while the halves exist.
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
    /// Creates the state of a stream that was just opened. `fin` finishes the sending side.
    pub(crate) fn new(fin: bool) -> Self {
        Self {
            received: BytesMut::new(),
            has_received: false,
            receiving: Receiving::Open,
            reply: None,
            reader: None,
            sending: if fin { Sending::Finished } else { Sending::Open },
            queued: 0,
            send_lost: false,
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
        self.send_lost |= self.queued > 0;
        // A finished half whose bytes were all sent has succeeded.
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
