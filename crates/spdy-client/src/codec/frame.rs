//! Control frames.

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
        /// The id of the new stream: odd if a client opens it.
        stream_id: u32,
        /// The associated stream, or 0.
        associated: u32,
        /// 0 (first) to 7 (last).
        priority: u8,
        /// Set if the sender has finished the stream.
        fin: bool,
        /// Set if the receiver must not send on the stream.
        unidirectional: bool,
        /// The headers of the request.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        stream_id: u32,
        /// Set if the sender has finished the stream.
        fin: bool,
        /// The headers of the response.
        headers: Headers,
    },
    /// Ends a stream in both directions immediately.
    RstStream {
        /// The stream.
        stream_id: u32,
        /// The status code.
        status: ResetStatus,
    },
    /// Settings of the connection.
    Settings {
        /// Clears persisted settings.
        clear: bool,
        /// The settings.
        settings: Vec<Setting>,
    },
    /// A ping, returned unchanged if the id is the peer's: even from a server, odd from a client.
    Ping {
        /// The ping id.
        id: u32,
    },
    /// The sender accepts no more streams.
    GoAway {
        /// The last accepted stream.
        last_good_stream_id: u32,
        /// 0 regular, 1 protocol error, 2 internal error.
        status: u32,
    },
    /// Additional headers of a stream.
    Headers {
        /// The stream.
        stream_id: u32,
        /// Set if the sender has finished the stream.
        fin: bool,
        /// The additional headers.
        headers: Headers,
    },
    /// Additional window at the receiver.
    WindowUpdate {
        /// The stream, or 0 for the connection.
        stream_id: u32,
        /// Size of the increment in bytes: 1 to 2^31 - 1.
        delta: u32,
    },
}

/// One entry of a `SETTINGS` frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// 1: persist the setting; 2: the setting was persisted.
    pub flags: u8,
    /// The setting's id, 24 bits.
    pub id: u32,
    /// The value.
    pub value: u32,
}

/// Status code of a stream reset.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResetStatus(pub u32);

impl ResetStatus {
    /// A generic protocol error.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// A frame for a stream that does not exist.
    pub const INVALID_STREAM: Self = Self(2);
    /// The stream was refused before any processing.
    pub const REFUSED_STREAM: Self = Self(3);
    /// The version of SPDY is not supported.
    pub const UNSUPPORTED_VERSION: Self = Self(4);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self(5);
    /// Internal error of the sender.
    pub const INTERNAL_ERROR: Self = Self(6);
    /// A violation of flow control.
    pub const FLOW_CONTROL_ERROR: Self = Self(7);
    /// A second reply for one stream.
    pub const STREAM_IN_USE: Self = Self(8);
    /// A frame for a finished stream.
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
