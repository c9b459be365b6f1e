//! The compression of header blocks: one zlib stream for each direction of a connection, which
//! begins with a dictionary and is flushed after each block.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{CodecError, MAX_HEADER_BLOCK};

/// The Adler-32 checksum of the [`dictionary`], by which zlib names it.
pub const DICTIONARY_ADLER32: u32 = 0xe3c6_a7c2;

/// The window of what we compress, as a power of two: 2 KiB hold the dictionary, and the state
/// stays small.
const WINDOW_BITS: u8 = 11;

/// The dictionary of SPDY/3 and 3.1: strings with a length of four bytes before each, then text.
#[must_use]
pub fn dictionary() -> &'static [u8] {
    static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut dictionary = Vec::with_capacity(1423);
        for word in WORDS {
            dictionary.extend_from_slice(&[0, 0, 0]);
            dictionary.extend(u8::try_from(word.len()));
            dictionary.extend_from_slice(word.as_bytes());
        }
        dictionary.extend_from_slice(TAIL.as_bytes());
        dictionary
    });
    &DICTIONARY
}

/// Compresses the header blocks of one direction, in the order in which they are sent.
#[derive(Debug)]
pub struct Compressor {
    zlib: Compress,
}

impl Compressor {
    /// The beginning of a connection.
    ///
    /// # Errors
    /// [`CodecError::Compression`] when zlib does not take the dictionary.
    pub fn new() -> Result<Self, CodecError> {
        let mut zlib = Compress::new_with_window_bits(Compression::default(), true, WINDOW_BITS);
        zlib.set_dictionary(dictionary()).map_err(|_| CodecError::Compression)?;
        Ok(Self { zlib })
    }

    /// Compresses one block, such that the other side can read all of it.
    ///
    /// # Errors
    /// [`CodecError::Compression`] when zlib fails; the connection is of no use after that.
    pub fn compress(&mut self, mut block: &[u8]) -> Result<Vec<u8>, CodecError> {
        let mut compressed = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let (read, written) = (self.zlib.total_in(), self.zlib.total_out());
            let status = self
                .zlib
                .compress(block, &mut chunk, FlushCompress::Sync)
                .map_err(|_| CodecError::Compression)?;
            let read = progress(read, self.zlib.total_in(), block.len());
            let written = progress(written, self.zlib.total_out(), chunk.len());
            block = &block[read..];
            compressed.extend_from_slice(&chunk[..written]);
            match status {
                Status::StreamEnd => return Err(CodecError::Compression),
                // A chunk that was not filled means that the flush is complete.
                _ if block.is_empty() && written < chunk.len() => return Ok(compressed),
                _ if read == 0 && written == 0 => return Err(CodecError::Compression),
                _ => {}
            }
        }
    }
}

/// Decompresses the header blocks of one direction, in the order in which they come.
#[derive(Debug)]
pub struct Decompressor {
    zlib: Decompress,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Decompressor {
    /// The beginning of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self { zlib: Decompress::new(true) }
    }

    /// Decompresses one block.
    ///
    /// # Errors
    /// [`CodecError::Decompression`] for what is no continuation of the stream,
    /// [`CodecError::TooLarge`] beyond [`MAX_HEADER_BLOCK`]. The connection is of no use after
    /// that.
    pub fn decompress(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, CodecError> {
        let mut block = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let (read, written) = (self.zlib.total_in(), self.zlib.total_out());
            let status = self.zlib.decompress(compressed, &mut chunk, FlushDecompress::Sync);
            let read = progress(read, self.zlib.total_in(), compressed.len());
            let written = progress(written, self.zlib.total_out(), chunk.len());
            compressed = &compressed[read..];
            block.extend_from_slice(&chunk[..written]);
            if block.len() > MAX_HEADER_BLOCK {
                return Err(CodecError::TooLarge(block.len()));
            }
            match status {
                Err(error) if error.needs_dictionary() == Some(DICTIONARY_ADLER32) => {
                    self.zlib
                        .set_dictionary(dictionary())
                        .map_err(|_| CodecError::Decompression)?;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(CodecError::Decompression),
                Ok(_) if compressed.is_empty() && written < chunk.len() => return Ok(block),
                Ok(_) if read == 0 && written == 0 => return Err(CodecError::Decompression),
                Ok(_) => {}
            }
        }
    }
}

/// How far a counter of zlib went, never more than what it was given.
fn progress(before: u64, after: u64, available: usize) -> usize {
    usize::try_from(after.saturating_sub(before)).map_or(available, |moved| moved.min(available))
}

const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request\
    401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented\
    503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=\
    gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
