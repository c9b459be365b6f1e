//! Streams of JSON values, one per line.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use runtime_core::{Error, Operation, Result};
use serde::de::DeserializeOwned;

use crate::error::invalid_response;

/// The length limit of a line. Events have a few hundred bytes, and all labels of the container.
const LINE_LENGTH_MAX: usize = 16 << 20;

/// Parses the values. The stream ends after the first error. A last line without a line end is a
/// value too.
pub(crate) fn values<T: DeserializeOwned + Send + 'static>(
    operation: Operation,
    bytes: impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<T>> + Send + 'static {
    let reader = Reader { bytes: Some(bytes), buffer: BytesMut::new(), searched: 0 };
    stream::unfold(reader, move |mut reader| async move {
        let item = reader
            .next()
            .await?
            .and_then(|line| serde_json::from_slice(&line).map_err(invalid_response));
        if item.is_err() {
            reader.bytes = None;
            reader.buffer.clear();
            reader.searched = 0;
        }
        Some((item.map_err(|error: Error| error.during(operation)), reader))
    })
}

struct Reader<S> {
    bytes: Option<S>,
    buffer: BytesMut,
    /// The length of the buffer's start without a line end.
    searched: usize,
}

impl<S: Stream<Item = Result<Bytes>> + Unpin> Reader<S> {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = self.buffer.split_to(self.searched + end).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                if !line.trim_ascii().is_empty() {
                    return Some(Ok(line));
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_LENGTH_MAX {
                return Some(Err(Error::internal("a line of the engine's response is too long")));
            }
            let more = match &mut self.bytes {
                Some(bytes) => bytes.next().await,
                None => None,
            };
            match more {
                Some(Ok(more)) => self.buffer.extend_from_slice(&more),
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    self.bytes = None;
                    self.searched = 0;
                    let rest = self.buffer.split().freeze();
                    return (!rest.trim_ascii().is_empty()).then_some(Ok(rest));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(parts: Vec<Result<Bytes>>) -> Vec<Result<serde_json::Value, String>> {
        values(Operation::Events, stream::iter(parts))
            .map(|item| item.map_err(|error| error.to_string()))
            .collect()
            .await
    }

    fn cut(text: &str, at: usize) -> Vec<Result<Bytes>> {
        text.as_bytes().chunks(at).map(|part| Ok(Bytes::copy_from_slice(part))).collect()
    }

    #[tokio::test]
    async fn values_in_any_pieces_are_whole() {
        let text = "{\"a\":1}\r\n\n{\"b\":\"\\n\"}\n[3]";
        for at in 1..text.len() {
            let values = read(cut(text, at)).await;
            assert_eq!(
                values,
                [
                    Ok(serde_json::json!({"a": 1})),
                    Ok(serde_json::json!({"b": "\n"})),
                    Ok(serde_json::json!([3]))
                ]
            );
        }
    }

    #[tokio::test]
    async fn stream_after_error_ends() {
        let values = read(cut("1\n{\n2\n", 100)).await;
        assert_eq!(values.len(), 2);
        assert_eq!(values[0], Ok(serde_json::json!(1)));
        assert!(values[1].as_ref().unwrap_err().contains("failed to parse"));
        let lost = vec![Ok(Bytes::from("1\n2")), Err(Error::internal("cut"))];
        let values = read(lost).await;
        assert_eq!(values.len(), 2);
        assert!(values[1].as_ref().unwrap_err().contains("cut"));
        assert_eq!(read(vec![]).await, []);
    }
}
