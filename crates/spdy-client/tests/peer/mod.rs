//! Scripted peer of a connection, with its own framing and header handling, and without the
//! client's rules.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use spdy_client::codec::dictionary;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub(crate) const SYN_STREAM: u16 = 1;
pub(crate) const SYN_REPLY: u16 = 2;
pub(crate) const RST_STREAM: u16 = 3;
pub(crate) const SETTINGS: u16 = 4;
pub(crate) const PING: u16 = 6;
pub(crate) const GOAWAY: u16 = 7;
pub(crate) const HEADERS: u16 = 8;
pub(crate) const WINDOW_UPDATE: u16 = 9;

/// Frame sent by the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReceivedFrame {
    Syn { id: u32, fin: bool, headers: Vec<(String, String)> },
    Data { id: u32, fin: bool, data: Vec<u8> },
    Reset { id: u32, status: u32 },
    Ping(u32),
    GoAway { last: u32, status: u32 },
    Other(u16),
}

pub(crate) struct Peer {
    io: DuplexStream,
    deflate: Compress,
    inflate: Decompress,
}

impl Peer {
    pub(crate) fn new(io: DuplexStream) -> Self {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(dictionary()).expect("the dictionary is taken");
        Self { io, deflate, inflate: Decompress::new(true) }
    }

    /// Returns the next frame, or `None` at the end of the transport.
    pub(crate) async fn next(&mut self) -> Option<ReceivedFrame> {
        let mut head = [0; 8];
        self.io.read_exact(&mut head).await.ok()?;
        let word =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (first, fin) = (word(0), head[4] & 1 == 1);
        let length = (word(4) & 0x00ff_ffff) as usize;
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.ok()?;
        if first & 0x8000_0000 == 0 {
            return Some(ReceivedFrame::Data { id: first, fin, data: payload });
        }
        assert_eq!(first >> 16, 0x8003, "the version");
        let field = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        Some(match (first & 0xffff) as u16 {
            SYN_STREAM => {
                assert_eq!(payload[4..10], [0; 6], "no associated stream, first priority");
                ReceivedFrame::Syn { id: field(0), fin, headers: self.headers(&payload[10..]) }
            }
            RST_STREAM => ReceivedFrame::Reset { id: field(0), status: field(4) },
            PING => ReceivedFrame::Ping(field(0)),
            GOAWAY => ReceivedFrame::GoAway { last: field(0), status: field(4) },
            kind => ReceivedFrame::Other(kind),
        })
    }

    fn headers(&mut self, compressed: &[u8]) -> Vec<(String, String)> {
        let mut block = vec![0; 4096];
        let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
        let result = self.inflate.decompress(compressed, &mut block, FlushDecompress::Sync);
        if let Err(error) = result {
            assert_eq!(error.needs_dictionary(), Some(0xe3c6_a7c2));
            self.inflate.set_dictionary(dictionary()).unwrap();
            let rest = &compressed[(self.inflate.total_in() - read) as usize..];
            self.inflate.decompress(rest, &mut block, FlushDecompress::Sync).unwrap();
        }
        block.truncate((self.inflate.total_out() - written) as usize);
        let mut words = Vec::new();
        let count = u32::from_be_bytes(block[..4].try_into().unwrap());
        let mut at = 4;
        for _ in 0..count * 2 {
            let length = u32::from_be_bytes(block[at..at + 4].try_into().unwrap()) as usize;
            words.push(String::from_utf8(block[at + 4..at + 4 + length].to_vec()).unwrap());
            at += 4 + length;
        }
        assert_eq!(at, block.len(), "nothing is left over");
        words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }

    /// Compresses a header block of the server.
    pub(crate) fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut block = (headers.len() as u32).to_be_bytes().to_vec();
        for word in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((word.len() as u32).to_be_bytes());
            block.extend(word.as_bytes());
        }
        let mut compressed = vec![0; 4096];
        let before = self.deflate.total_out();
        self.deflate.compress(&block, &mut compressed, FlushCompress::Sync).unwrap();
        compressed.truncate((self.deflate.total_out() - before) as usize);
        compressed
    }

    pub(crate) async fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) {
        let mut frame = vec![0x80, 3];
        frame.extend(kind.to_be_bytes());
        frame.extend((u32::from(flags) << 24 | payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        self.raw(&frame).await;
    }

    /// The client may be gone; the test detects that elsewhere.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.io.write_all(bytes).await;
    }

    pub(crate) async fn reply(&mut self, id: u32, headers: &[(&str, &str)]) {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(self.block(headers));
        self.control(SYN_REPLY, 0, &payload).await;
    }

    pub(crate) async fn data(&mut self, id: u32, fin: bool, data: &[u8]) {
        let mut frame = id.to_be_bytes().to_vec();
        frame.extend((u32::from(fin) << 24 | data.len() as u32).to_be_bytes());
        frame.extend(data);
        self.raw(&frame).await;
    }

    pub(crate) async fn pair(&mut self, kind: u16, first: u32, second: u32) {
        let payload = [first.to_be_bytes(), second.to_be_bytes()].concat();
        self.control(kind, 0, &payload).await;
    }

    pub(crate) async fn reset(&mut self, id: u32, status: u32) {
        self.pair(RST_STREAM, id, status).await;
    }

    /// Reads the opening of a stream and accepts it.
    pub(crate) async fn accept(&mut self) -> (u32, Vec<(String, String)>) {
        match self.next().await {
            Some(ReceivedFrame::Syn { id, headers, .. }) => {
                self.reply(id, &[]).await;
                (id, headers)
            }
            other => panic!("{other:?} is not SYN_STREAM"),
        }
    }

    pub(crate) fn into_inner(self) -> DuplexStream {
        self.io
    }
}
