//! A log without times: the bytes as the node returns them.
//!
//! A node that cannot continue to read a log ends it with an error message, which cannot be
//! distinguished from the output of the container, and the API server ends a log without an error
//! if it has lost the node. So the end of the data is compared with the last line of the log.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use runtime_core::{
    ContainerStatus, Error, ErrorKind, LogStream, Operation, RawLog, RawLogs, Result,
};

use super::request::{last_line, retryable_if_transient};
use crate::client::transport::connections::OpenBody;
use crate::model::container::KubernetesContainer;
use crate::model::info;
use crate::model::labels::CONTAINER;
use crate::model::pod::lifecycle;
use crate::state::KubernetesBackend;

/// A shorter log is read with times, because it may be only an error message of the node.
const RAW_BYTES_MIN: usize = 4 << 10;

/// How much of the end is kept for the comparison.
const TAIL_BYTES: usize = 32 << 10;

/// Opens the log of a container. `None` if it is short.
pub(super) async fn open(
    backend: &Arc<KubernetesBackend>,
    container: &KubernetesContainer,
) -> Result<Option<RawLogs>> {
    let query = [("container", CONTAINER.to_owned())];
    let open = async {
        if lifecycle::started_at(&backend.current(container).await?.pod).is_none() {
            return Ok(None);
        }
        let mut body = backend.client.open_log(container.pod_name(), &query).await?;
        let mut begin = VecDeque::new();
        let mut length = 0;
        while length < RAW_BYTES_MIN {
            let Some(piece) = body.data().await? else { return Ok(None) };
            length += piece.len();
            begin.push_back(piece);
        }
        Ok(Some((body, begin)))
    };
    let open = backend.query(Operation::Logs, open).await.map_err(retryable_if_transient)?;
    let Some((body, begin)) = open else { return Ok(None) };
    let raw = Raw {
        backend: Arc::clone(backend),
        container: container.clone(),
        body,
        begin,
        end: Tail::default(),
    };
    Ok(Some(Box::pin(stream::unfold(Some(raw), |raw| async move {
        let mut raw = raw?;
        match raw.next().await {
            Ok(Some(bytes)) => Some((Ok(RawLog { stream: LogStream::Unknown, bytes }), Some(raw))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))))
}

struct Raw {
    backend: Arc<KubernetesBackend>,
    container: KubernetesContainer,
    body: OpenBody,
    /// The data that was read to determine the length.
    begin: VecDeque<Bytes>,
    end: Tail,
}

impl Raw {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let piece = match self.begin.pop_front() {
            Some(piece) => Some(piece),
            None => self.body.data().await?,
        };
        match piece {
            Some(piece) => {
                self.end.push(piece.clone());
                Ok(Some(piece))
            }
            None => self.check_end().await.map(|()| None),
        }
    }

    /// Checks that the log of an ended container was read to its end.
    async fn check_end(&mut self) -> Result<()> {
        let work = async {
            let seen = self.backend.current(&self.container).await?;
            if info::status(&seen.state) != ContainerStatus::Exited {
                return Ok(None);
            }
            last_line(&self.backend, &self.container).await
        };
        match self.backend.query(Operation::Logs, work).await? {
            Some(last) if !self.end.is(&last) => Err(Error::new(ErrorKind::Lost).with_message(
                "the log ends before the last line of the container: the node has not returned all of it",
            )),
            _ => Ok(()),
        }
    }
}

/// The end of the data.
#[derive(Debug, Default)]
struct Tail {
    pieces: VecDeque<Bytes>,
    length: usize,
}

impl Tail {
    fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        self.pieces.push_back(piece);
        while let Some(first) = self.pieces.front()
            && self.length - first.len() >= TAIL_BYTES
        {
            self.length -= first.len();
            self.pieces.pop_front();
        }
    }

    /// Returns whether the data ends with `last`, as far as it is kept.
    fn is(&self, last: &[u8]) -> bool {
        let kept: Vec<u8> = self.pieces.iter().flatten().copied().collect();
        let last = &last[last.len() - last.len().min(kept.len())..];
        kept.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_kept_across_pieces() {
        let mut end = Tail::default();
        assert!(end.is(b"anything"));
        for number in 0..100_000 {
            end.push(format!("line {number}\n").into());
        }
        assert!((TAIL_BYTES..TAIL_BYTES + 16).contains(&end.length), "{}", end.length);
        assert!(end.is(b"line 99999\n"));
        assert!(end.is(b"\n"));
        assert!(!end.is(b"line 99998\n"));
        assert!(!end.is(b"line 100000\n"));
        let long = "x".repeat(TAIL_BYTES * 2);
        end.push(long.clone().into());
        assert!(end.is(long.as_bytes()));
        assert!(end.is(format!("{long}{long}").as_bytes()));
    }
}
