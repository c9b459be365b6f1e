//! Requests for a log.

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use runtime_core::{Chunk, Error, ErrorKind, LogStream, Operation, Result};
use runtime_support::follow::OpenLog;
use tokio::time::Instant;

use crate::client::lines::Lines;
use crate::client::transport::connections::OpenBody;
use crate::model::container::KubernetesContainer;
use crate::model::labels::CONTAINER;
use crate::model::log_format as line;
use crate::state::KubernetesBackend;

/// How much of the last line is kept.
const LAST_LINE_BYTES_MAX: usize = 64 << 10;

/// An open log, and the time at which it was opened.
pub(super) type Opened = (OpenBody, Instant);

/// Opens a log.
pub(super) async fn open(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
    from: OpenLog,
) -> Result<Opened> {
    let mut query = vec![("container", CONTAINER.to_owned()), ("timestamps", "true".to_owned())];
    if from.follow {
        query.push(("follow", "true".to_owned()));
    }
    if let Some(tail) = from.tail {
        query.push(("tailLines", tail.to_string()));
    }
    if let Some(since) = from.since.and_then(whole_seconds) {
        query.push(("sinceTime", since));
    }
    let open = backend.client.open_log(container.pod_name(), &query);
    let body = backend.query(Operation::Logs, open).await.map_err(retryable_if_transient)?;
    Ok((body, Instant::now()))
}

/// Returns the last line of a log, or its last piece if the engine has split it.
pub(super) async fn last_line(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
) -> Result<Option<Bytes>> {
    let chunks = last_chunks(backend, container).await?;
    Ok((!chunks.is_empty()).then(|| chunks.into_iter().flat_map(|chunk| chunk.bytes).collect()))
}

/// Returns the last chunks of a log, all of one line.
pub(super) async fn last_chunks(
    backend: &KubernetesBackend,
    container: &KubernetesContainer,
) -> Result<VecDeque<Chunk>> {
    let query = [
        ("container", CONTAINER.to_owned()),
        ("timestamps", "true".to_owned()),
        ("tailLines", "1".to_owned()),
    ];
    let body = backend.client.open_log(container.pod_name(), &query).await?;
    let (mut lines, mut reader) = (Lines::new(body), line::Reader::new(LogStream::Unknown));
    let mut chunks = VecDeque::new();
    loop {
        let (part, is_all) = match lines.next_within(line::PIECE_BYTES_MAX).await? {
            Some(part) => {
                let is_all = part.ends_with(b"\n");
                (part, is_all)
            }
            None => match lines.rest() {
                None if !reader.is_in_line() => return Ok(chunks),
                rest => (rest.unwrap_or_default(), true),
            },
        };
        reader.read(part, is_all, |chunk| keep(&mut chunks, chunk))?;
        if is_all {
            return Ok(chunks);
        }
    }
}

/// Adds a chunk, and drops the first ones beyond the limit.
fn keep(chunks: &mut VecDeque<Chunk>, chunk: Chunk) {
    chunks.push_back(chunk);
    let mut length: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    while let Some(first) = chunks.front()
        && length - first.bytes.len() >= LAST_LINE_BYTES_MAX
    {
        length -= first.bytes.len();
        chunks.pop_front();
    }
}

/// Converts errors that a retry can fix: the container can have been started or removed between the
/// requests for the pod and for its log, and a kubelet that has just started does not have its pods
/// yet.
pub(super) fn retryable_if_transient(error: Error) -> Error {
    let message = error.message().unwrap_or_default().to_owned();
    let passes = match error.kind() {
        ErrorKind::InvalidArgument => true,
        ErrorKind::NotFound => message.contains("could not find the requested resource"),
        _ => false,
    };
    if !passes {
        return error;
    }
    Error::new(ErrorKind::Unavailable).with_message(message).with_source(error)
}

/// Returns a time rounded down to seconds, as the kubelet does.
fn whole_seconds(time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let time = Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_long_line_is_kept() {
        let chunk = |length| Chunk {
            time: SystemTime::UNIX_EPOCH,
            stream: LogStream::Unknown,
            bytes: vec![b'x'; length].into(),
            ends_line: false,
        };
        let mut chunks = VecDeque::new();
        for _ in 0..100 {
            keep(&mut chunks, chunk(16 << 10));
        }
        assert_eq!(chunks.len(), LAST_LINE_BYTES_MAX / (16 << 10));
        keep(&mut chunks, chunk(2 * LAST_LINE_BYTES_MAX));
        assert_eq!(chunks.len(), 1);
    }
}
