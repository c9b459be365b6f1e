//! A body line by line.

use std::fmt;

use bytes::{Bytes, BytesMut};
use runtime_core::Result;

use crate::link::OpenBody;

/// The lines of a body, with their ends.
pub(crate) struct Lines {
    body: OpenBody,
    held: BytesMut,
    /// How far `held` is known to have no line end.
    searched: usize,
}

impl Lines {
    pub(crate) fn new(body: OpenBody) -> Self {
        Self { body, held: BytesMut::new(), searched: 0 }
    }

    /// The next line. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.held[self.searched..]) {
                let line = self.held.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.held.len();
            match self.body.data().await? {
                None => return Ok(None),
                Some(data) => self.held.extend_from_slice(&data),
            }
        }
    }

    /// Whether nothing came after the last line.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What came after the last line end, once there are no more lines.
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
