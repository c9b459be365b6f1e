//! Reads a body line by line.

use std::fmt;

use bytes::{Bytes, BytesMut};
use runtime_core::Result;

use crate::client::transport::connections::OpenBody;

/// The lines of a body, with their ends.
pub(crate) struct Lines {
    body: OpenBody,
    held: BytesMut,
    /// Length of the prefix of `held` that has no line end.
    searched: usize,
}

impl Lines {
    pub(crate) fn new(body: OpenBody) -> Self {
        Self { body, held: BytesMut::new(), searched: 0 }
    }

    /// Returns the next line. It is cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        self.next_within(usize::MAX).await
    }

    /// Returns the next line, or its first part if that is longer than `most` bytes. It is cancel
    /// safe.
    pub(crate) async fn next_within(&mut self, most: usize) -> Result<Option<Bytes>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.held[self.searched..]) {
                let line = self.held.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.held.len();
            if self.searched > most {
                return Ok(self.rest());
            }
            match self.body.data().await? {
                None => return Ok(None),
                Some(data) => self.held.extend_from_slice(&data),
            }
        }
    }

    /// Returns the data after the last line end.
    pub(crate) fn rest(&mut self) -> Option<Bytes> {
        let rest = std::mem::take(&mut self.held);
        self.searched = 0;
        (!rest.is_empty()).then(|| rest.freeze())
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("held", &self.held.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &'static str, most: usize) -> Vec<Bytes> {
        let mut lines =
            Lines::new(OpenBody::of(kube::client::Body::from(text.as_bytes().to_vec())));
        let mut read = Vec::new();
        while let Some(line) = lines.next_within(most).await.unwrap() {
            read.push(line);
        }
        read.extend(lines.rest());
        read
    }

    #[tokio::test]
    async fn endless_line_is_returned_in_parts() {
        assert_eq!(read("ab\ncd\ne", usize::MAX).await, ["ab\n", "cd\n", "e"]);
        assert_eq!(read("ab\nlong", 3).await, ["ab\n", "long"]);
        assert_eq!(read("abc", 3).await, ["abc"]);
    }
}
