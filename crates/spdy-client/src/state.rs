//! State shared by the driver and the handles of a connection, behind one mutex that is held
//! briefly.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use crate::codec::{ControlFrame, Decoded, Encoder, Headers, MAX_STREAM_ID, ResetStatus};
use crate::entry::{Entry, Receiving, Sending, wake};
use crate::liveness::Liveness;
use crate::{Config, Error};

/// Maximum number of queued bytes of control frames, after which reading from the transport stops:
/// each received frame can require a response.
const CONTROL_QUEUE_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        let state = State {
            config,
            encoder: Encoder::new()?,
            streams: HashMap::new(),
            next_stream: 1,
            next_ping: 1,
            pings: HashMap::new(),
            outgoing: VecDeque::new(),
            control_backlog: 0,
            handles: 0,
            closing: false,
            end: None,
            write_error: None,
            going_away: None,
            driver: None,
            end_waiters: Vec::new(),
            liveness: Liveness::new(),
        };
        Ok(Self { state: Mutex::new(state) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handle that keeps a connection alive: the driver ends when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        shared.lock().handles += 1;
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.handles -= 1;
        if state.handles == 0 {
            state.wake_driver();
        }
    }
}

/// Frame in the send queue.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) bytes: Bytes,
    /// The stream whose send buffer holds the frame; `None` for a control frame.
    stream: Option<u32>,
    /// The size of the whole frame; `bytes` shrinks while it is sent.
    size: usize,
}

#[derive(Debug)]
pub(crate) struct State {
    config: Config,
    encoder: Encoder,
    pub(crate) streams: HashMap<u32, Entry>,
    next_stream: u32,
    next_ping: u32,
    pings: HashMap<u32, oneshot::Sender<()>>,
    pub(crate) outgoing: VecDeque<Outgoing>,
    control_backlog: usize,
    pub(crate) handles: usize,
    pub(crate) closing: bool,
    end: Option<Error>,
    write_error: Option<Error>,
    going_away: Option<u32>,
    driver: Option<Waker>,
    end_waiters: Vec<Waker>,
    pub(crate) liveness: Liveness,
}

impl State {
    /// Returns the reason for the end of the connection.
    pub(crate) fn end(&self) -> Option<Error> {
        self.end.clone()
    }

    pub(crate) fn on_end(&mut self, waker: &Waker) {
        if !self.end_waiters.iter().any(|known| known.will_wake(waker)) {
            self.end_waiters.push(waker.clone());
        }
    }

    pub(crate) fn on_work(&mut self, waker: &Waker) {
        self.driver = Some(waker.clone());
    }

    pub(crate) fn wake_driver(&mut self) {
        wake(&mut self.driver);
    }

    pub(crate) fn receive_buffer(&self) -> usize {
        // At least 1, because nothing could be received with an empty buffer.
        self.config.receive_buffer.max(1)
    }

    pub(crate) const fn send_buffer(&self) -> usize {
        self.config.send_buffer
    }

    /// Returns true if more input would exceed the limits.
    pub(crate) fn is_full(&self) -> bool {
        self.control_backlog > CONTROL_QUEUE_BYTES_MAX
            || self.streams.values().any(|entry| entry.received.len() >= self.receive_buffer())
    }

    /// Queues a control frame.
    pub(crate) fn control(&mut self, frame: &ControlFrame) -> Result<(), Error> {
        if self.write_error.is_some() || self.end.is_some() {
            return Ok(());
        }
        let mut bytes = BytesMut::new();
        self.encoder.control(frame, &mut bytes)?;
        self.control_backlog += bytes.len();
        self.push(bytes, None);
        Ok(())
    }

    /// Queues a data frame.
    pub(crate) fn data(&mut self, id: u32, fin: bool, data: &[u8]) -> Result<(), Error> {
        let mut bytes = BytesMut::new();
        Encoder::data(id, fin, data, &mut bytes)?;
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.queued += bytes.len();
        }
        self.liveness.sent(bytes.len(), self.next_ping);
        self.push(bytes, Some(id));
        Ok(())
    }

    fn push(&mut self, bytes: BytesMut, stream: Option<u32>) {
        let size = bytes.len();
        self.outgoing.push_back(Outgoing { bytes: bytes.freeze(), stream, size });
        self.wake_driver();
    }

    /// Removes the first frame of the queue, which was sent.
    pub(crate) fn sent(&mut self) {
        let Some(Outgoing { stream, size, .. }) = self.outgoing.pop_front() else { return };
        match stream {
            None => self.control_backlog -= size,
            Some(id) => {
                if let Some(entry) = self.streams.get_mut(&id) {
                    entry.queued -= size;
                    wake(&mut entry.writer);
                }
            }
        }
    }

    pub(crate) fn open(&mut self, headers: Headers, fin: bool) -> Result<u32, Error> {
        if let Some(error) = self.end.as_ref().or(self.write_error.as_ref()) {
            return Err(error.clone());
        }
        if let Some(status) = self.going_away {
            return Err(Error::GoneAway(status));
        }
        if self.closing {
            return Err(Error::Closed);
        }
        let id = self.next_stream;
        if id > MAX_STREAM_ID {
            return Err(Error::Exhausted);
        }
        self.control(&ControlFrame::SynStream {
            stream_id: id,
            associated: 0,
            priority: 0,
            fin,
            unidirectional: false,
            headers,
        })?;
        self.next_stream = id.saturating_add(2);
        self.streams.insert(id, Entry::new(fin));
        Ok(id)
    }

    pub(crate) fn ping(&mut self, sender: oneshot::Sender<()>) -> Result<(), Error> {
        if let Some(error) = self.end.as_ref().or(self.write_error.as_ref()) {
            return Err(error.clone());
        }
        self.pings.retain(|_, waiting| !waiting.is_closed());
        let id = self.next_ping_id();
        self.control(&ControlFrame::Ping { id })?;
        self.pings.insert(id, sender);
        Ok(())
    }

    /// Sends a keep-alive ping, unless control frames are stuck or bytes were received within
    /// `recent`. In the latter case the connection is alive, and a ping that arrives after the end
    /// of the session would make the server's kernel reset the connection, and discard output in
    /// flight.
    pub(crate) fn keep_alive(&mut self, recent: Duration) -> Result<(), Error> {
        if self.control_backlog > 0 || !self.liveness.is_quiet(recent) {
            return Ok(());
        }
        let id = self.next_ping_id();
        self.liveness.pinged(id);
        self.control(&ControlFrame::Ping { id })
    }

    fn next_ping_id(&mut self) -> u32 {
        let id = self.next_ping;
        // Client ids are odd and wrap around.
        self.next_ping = id.wrapping_add(2);
        id
    }

    /// Ends a stream immediately in both directions.
    pub(crate) fn reset(&mut self, id: u32, status: ResetStatus) -> Result<(), Error> {
        let Some(entry) = self.streams.get_mut(&id) else { return Ok(()) };
        let over =
            !matches!(entry.receiving, Receiving::Open) && !matches!(entry.sending, Sending::Open);
        entry.received.clear();
        entry.fail(&Error::Reset(status));
        self.wake_driver();
        if over {
            return Ok(());
        }
        self.control(&ControlFrame::RstStream { stream_id: id, status })
    }

    /// Removes a stream whose halves are both dropped.
    pub(crate) fn release(&mut self, id: u32) {
        let Some(entry) = self.streams.get(&id) else { return };
        if entry.read_half || entry.write_half {
            return;
        }
        if matches!(entry.receiving, Receiving::Open) {
            // Encoding a reset cannot fail, because it has no headers.
            let _ = self
                .control(&ControlFrame::RstStream { stream_id: id, status: ResetStatus::CANCEL });
        }
        self.streams.remove(&id);
        self.wake_driver();
    }

    /// Records a failed write. Bytes that the peer sent before can still be read.
    pub(crate) fn fail_writing(&mut self, error: Error) {
        self.outgoing.clear();
        self.control_backlog = 0;
        for entry in self.streams.values_mut() {
            entry.fail_sending(&error);
            entry.queued = 0;
        }
        self.write_error = Some(error);
    }

    /// Records the end of the connection.
    pub(crate) fn finish(&mut self, error: &Error) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(error.clone());
        for entry in self.streams.values_mut() {
            entry.fail(error);
            entry.queued = 0;
        }
        self.outgoing.clear();
        self.control_backlog = 0;
        self.pings.clear();
        for waiter in self.end_waiters.drain(..) {
            waiter.wake();
        }
    }

    /// Handles a received frame.
    pub(crate) fn accept(&mut self, decoded: Decoded<'_>) -> Result<(), Error> {
        match decoded {
            Decoded::Data { stream_id, data, fin } => {
                return self.accept_data(stream_id, data, fin);
            }
            Decoded::Control(frame) => match frame {
                ControlFrame::SynStream { stream_id, .. } => {
                    // A server does not open streams to a client of remote commands.
                    let status = ResetStatus::REFUSED_STREAM;
                    return self.control(&ControlFrame::RstStream { stream_id, status });
                }
                ControlFrame::SynReply { stream_id, fin, headers } => {
                    if let Some(entry) = self.streams.get_mut(&stream_id) {
                        entry.reply.get_or_insert(headers);
                        wake(&mut entry.reader);
                        if fin {
                            entry.finish_receiving();
                        }
                    }
                }
                ControlFrame::Headers { stream_id, fin: true, .. } => {
                    if let Some(entry) = self.streams.get_mut(&stream_id) {
                        entry.finish_receiving();
                    }
                }
                ControlFrame::RstStream { stream_id, status } => {
                    if let Some(entry) = self.streams.get_mut(&stream_id) {
                        entry.fail(&Error::Reset(status));
                    }
                }
                ControlFrame::Ping { id } if id % 2 == 0 => {
                    return self.control(&ControlFrame::Ping { id });
                }
                ControlFrame::Ping { id } => {
                    self.liveness.answered(id);
                    if let Some(waiting) = self.pings.remove(&id) {
                        let _ = waiting.send(());
                    }
                }
                ControlFrame::GoAway { last_good_stream_id, status } => {
                    self.going_away = Some(status);
                    for (id, entry) in &mut self.streams {
                        if *id > last_good_stream_id {
                            entry.fail(&Error::GoneAway(status));
                        }
                    }
                }
                _ => {}
            },
        }
        Ok(())
    }

    fn accept_data(&mut self, id: u32, data: &[u8], fin: bool) -> Result<(), Error> {
        let Some(entry) = self.streams.get_mut(&id) else {
            // Data of a stream that was reset locally may have been in flight.
            if id % 2 == 1 && id < self.next_stream {
                return Ok(());
            }
            let status = ResetStatus::INVALID_STREAM;
            return self.control(&ControlFrame::RstStream { stream_id: id, status });
        };
        if !matches!(entry.receiving, Receiving::Open) {
            return Ok(());
        }
        if !data.is_empty() {
            entry.has_received = true;
            if entry.read_half {
                entry.received.extend_from_slice(data);
            }
            wake(&mut entry.reader);
        }
        if fin {
            entry.finish_receiving();
        }
        Ok(())
    }
}
