//! The control frames as values.

use std::fmt;

use super::Headers;

pub(super) const VERSION: u16 = 3;

pub(super) const SYN_STREAM: u16 = 1;
pub(super) const SYN_REPLY: u16 = 2;
pub(super) const RST_STREAM: u16 = 3;
pub(super) const SETTINGS: u16 = 4;
pub(super) const PING: u16 = 6;
pub(super) const GOAWAY: u16 = 7;
pub(super) const HEADERS: u16 = 8;
pub(super) const WINDOW_UPDATE: u16 = 9;

pub(super) const FLAG_FIN: u8 = 0x01;
pub(super) const FLAG_UNIDIRECTIONAL: u8 = 0x02;
pub(super) const FLAG_CLEAR_SETTINGS: u8 = 0x01;

/// A control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlFrame {
    /// Opens a stream.
    SynStream {
        /// The new stream: odd when a client opens it.
        stream_id: u32,
        /// The stream that it belongs to, or 0.
        associated: u32,
        /// 0 (first) to 7 (last).
        priority: u8,
        /// The sender sends nothing more on it.
        fin: bool,
        /// The receiver must not send on it.
        unidirectional: bool,
        /// What the stream is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        stream_id: u32,
        /// The sender sends nothing more on it.
        fin: bool,
        /// The answer.
        headers: Headers,
    },
    /// Ends a stream in both directions at once.
    RstStream {
        /// The stream.
        stream_id: u32,
        /// Why.
        status: ResetStatus,
    },
    /// Facts about the connection.
    Settings {
        /// Forget what was persisted before.
        clear: bool,
        /// The facts.
        settings: Vec<Setting>,
    },
    /// To be sent back as it is when the id is the other side's: even from a server, odd from a
    /// client.
    Ping {
        /// Tells pings apart.
        id: u32,
    },
    /// No more streams are accepted.
    GoAway {
        /// The last stream that was.
        last_good_stream_id: u32,
        /// 0 regular, 1 protocol error, 2 internal error.
        status: u32,
    },
    /// More headers for a stream.
    Headers {
        /// The stream.
        stream_id: u32,
        /// The sender sends nothing more on it.
        fin: bool,
        /// The additional headers.
        headers: Headers,
    },
    /// More room at the receiver.
    WindowUpdate {
        /// The stream, or 0 for the connection.
        stream_id: u32,
        /// Bytes of additional room: 1 to 2^31 - 1.
        delta: u32,
    },
}

/// One fact of a `SETTINGS` frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// 1: persist it; 2: it was persisted.
    pub flags: u8,
    /// Which fact, a number of 24 bits.
    pub id: u32,
    /// Its value.
    pub value: u32,
}

/// Why a stream was reset: a status code of the draft.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResetStatus(pub u32);

impl ResetStatus {
    /// A generic protocol error.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// A frame for a stream that is not there.
    pub const INVALID_STREAM: Self = Self(2);
    /// The stream was refused before anything was done with it.
    pub const REFUSED_STREAM: Self = Self(3);
    /// The version of SPDY is not supported.
    pub const UNSUPPORTED_VERSION: Self = Self(4);
    /// The stream is not needed any more.
    pub const CANCEL: Self = Self(5);
    /// The other side failed.
    pub const INTERNAL_ERROR: Self = Self(6);
    /// Flow control was broken.
    pub const FLOW_CONTROL_ERROR: Self = Self(7);
    /// A second reply for one stream.
    pub const STREAM_IN_USE: Self = Self(8);
    /// A frame for a stream that was finished.
    pub const STREAM_ALREADY_CLOSED: Self = Self(9);

    const fn name(self) -> &'static str {
        match self.0 {
            1 => "protocol error",
            2 => "invalid stream",
            3 => "refused",
            4 => "unsupported version",
            5 => "cancelled",
            6 => "internal error",
            7 => "flow control error",
            8 => "stream in use",
            9 => "stream already closed",
            _ => "unknown status",
        }
    }
}

impl fmt::Display for ResetStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Debug for ResetStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResetStatus({}, {})", self.0, self.name())
    }
}
