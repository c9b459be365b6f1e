//! Fake engine for tests that sends the same response to every request, or none.

use std::io;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::options::Endpoint;

/// Response of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// No response.
    Nothing,
    /// An empty message, which is valid for every method.
    Empty,
}

/// Frame types and flags (RFC 9113, section 6).
const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Fake engine.
pub(crate) struct Fake {
    /// Directory of the socket and of the files of a test.
    pub(crate) directory: TempDir,
    frames: Arc<Mutex<Vec<u8>>>,
}

impl Fake {
    pub(crate) fn start(says: Says) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let frames = Arc::<Mutex<Vec<u8>>>::default();
        let fake = Self { directory, frames: frames.clone() };
        let listener = UnixListener::bind(fake.endpoint().socket).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, says, frames.clone()));
            }
        });
        fake
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { socket: self.directory.path().join("engine.sock") }
    }

    /// Returns the types of the received frames.
    pub(crate) fn frames(&self) -> Vec<u8> {
        self.frames.lock().unwrap().clone()
    }
}

async fn serve(mut stream: UnixStream, says: Says, frames: Arc<Mutex<Vec<u8>>>) -> io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&frame(SETTINGS, 0, [0; 4], b"")).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut body).await?;
        frames.lock().unwrap().push(kind);
        let answer = match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, id, b""),
            PING if flags & ACK == 0 => frame(PING, ACK, id, &body),
            DATA if flags & END_STREAM != 0 && says == Says::Empty => [
                // The status 200 is in the static table of HPACK.
                frame(HEADERS, END_HEADERS, id, b"\x88\0\x0ccontent-type\x10application/grpc"),
                frame(DATA, 0, id, &[0; 5]),
                frame(HEADERS, END_HEADERS | END_STREAM, id, b"\0\x0bgrpc-status\x010"),
            ]
            .concat(),
            _ => continue,
        };
        stream.write_all(&answer).await?;
    }
}

fn frame(kind: u8, flags: u8, id: [u8; 4], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id, body].concat()
}
