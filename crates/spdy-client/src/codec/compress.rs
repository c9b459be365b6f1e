//! Compression of header blocks: one zlib stream per direction of a connection, which starts with a
//! dictionary and is flushed after each block.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{CodecError, MAX_HEADER_BLOCK};

/// Adler-32 checksum of the [`dictionary`], with which zlib identifies it.
pub const DICTIONARY_ADLER32: u32 = 0xe3c6_a7c2;

/// Base-2 logarithm of the compression window: 2 KiB hold the dictionary and keep the state small.
const WINDOW_BITS: u8 = 11;

/// Returns the dictionary of SPDY/3 and 3.1: strings with a length prefix of four bytes, then text.
#[must_use]
pub fn dictionary() -> &'static [u8] {
    static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut dictionary = Vec::with_capacity(1423);
        for word in DICTIONARY_WORDS {
            dictionary.extend_from_slice(&[0, 0, 0]);
            dictionary.extend(u8::try_from(word.len()));
            dictionary.extend_from_slice(word.as_bytes());
        }
        dictionary.extend_from_slice(DICTIONARY_TEXT.as_bytes());
        dictionary
    });
    &DICTIONARY
}

/// Compressor of the header blocks of one direction, in sending order.
#[derive(Debug)]
pub struct Compressor {
    zlib: Compress,
}

impl Compressor {
    /// Creates the compressor of a new connection.
    ///
    /// # Errors
    /// [`CodecError::Compression`] if zlib rejects the dictionary.
    pub fn new() -> Result<Self, CodecError> {
        let mut zlib = Compress::new_with_window_bits(Compression::default(), true, WINDOW_BITS);
        zlib.set_dictionary(dictionary()).map_err(|_| CodecError::Compression)?;
        Ok(Self { zlib })
    }

    /// Compresses one block and flushes, so that the peer can decompress all of it.
    ///
    /// # Errors
    /// [`CodecError::Compression`] if zlib fails; the connection is unusable after that.
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
                // A chunk with free space means that the flush is complete.
                _ if block.is_empty() && written < chunk.len() => return Ok(compressed),
                _ if read == 0 && written == 0 => return Err(CodecError::Compression),
                _ => {}
            }
        }
    }
}

/// Decompressor of the header blocks of one direction, in receiving order.
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
    /// Creates the decompressor of a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self { zlib: Decompress::new(true) }
    }

    /// Decompresses one block.
    ///
    /// # Errors
    /// [`CodecError::Decompression`] if the block does not continue the stream,
    /// [`CodecError::TooLarge`] beyond [`MAX_HEADER_BLOCK`]. The connection is unusable after that.
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

/// Returns the progress of a zlib counter, at most `available`.
fn progress(before: u64, after: u64, available: usize) -> usize {
    usize::try_from(after.saturating_sub(before)).map_or(available, |moved| moved.min(available))
}

const DICTIONARY_WORDS: [&str; 65] = [
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

const DICTIONARY_TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request\
    401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented\
    503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=\
    gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
