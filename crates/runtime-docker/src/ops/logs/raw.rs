//! A log without timestamps: the content of its frames, with adjacent frames of one stream joined.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream;
use runtime_core::{Error, ErrorKind, LogOptions, LogReader, LogStream, RawLog, RawLogs, Result};
use runtime_support::follow::{OpenLog, read_log};

use super::{EngineLog, Pieces};
use crate::model::demux::engine_error;
use crate::model::frames::{Frames, Kind};

/// The prefix of an error of engines up to 20.10 in the container's stderr. Later ones have a
/// separate stream.
const ERROR_PREFIX: &[u8] = b"Error grabbing logs: ";

/// The first release with a separate stream for its errors.
const ERROR_STREAM_RELEASE: [u32; 3] = [22, 0, 0];

/// Opens a raw log.
pub(super) async fn open(log: EngineLog) -> Result<RawLogs> {
    let has_error_stream = log.backend.engine.release() >= ERROR_STREAM_RELEASE;
    let pieces = log.request(OpenLog::default(), false).await?;
    let raw = Raw {
        log,
        pieces,
        has_error_stream,
        frames: Frames::default(),
        piece: Bytes::new(),
        next_part: None,
        returned: [0; 2],
        state: State::Raw,
    };
    Ok(Box::pin(stream::unfold(raw, |mut raw| async move {
        let next = match raw.next().await {
            Ok(next) => Ok(next?),
            Err(error) => {
                raw.state = State::Ended;
                Err(raw.pieces.fail(error))
            }
        };
        Some((next, raw))
    })))
}

struct Raw {
    log: EngineLog,
    pieces: Pieces,
    has_error_stream: bool,
    frames: Frames,
    piece: Bytes,
    /// The part after the last returned bytes.
    next_part: Option<Part>,
    /// The number of returned bytes of each stream.
    returned: [u64; 2],
    state: State,
}

enum Part {
    Bytes(LogStream, Bytes),
    /// A message of the container, or an error of the engine.
    Ambiguous,
}

enum State {
    Raw,
    /// Reads the records with timestamps after an ambiguous message, because errors of the engine
    /// have no timestamp. The numbers are the bytes of each stream to skip.
    Records(LogReader, [u64; 2]),
    Ended,
}

fn index(stream: LogStream) -> usize {
    usize::from(stream == LogStream::Stderr)
}

impl Raw {
    async fn next(&mut self) -> Result<Option<RawLog>> {
        loop {
            match &mut self.state {
                State::Ended => return Ok(None),
                State::Records(records, skip) => {
                    let Some(record) = records.next().await else { return Ok(None) };
                    let mut record = record?;
                    let skip = &mut skip[index(record.stream)];
                    let passed = (*skip).min(record.bytes.len() as u64);
                    *skip -= passed;
                    let _ = record.bytes.split_to(usize::try_from(passed).unwrap_or(usize::MAX));
                    if !record.bytes.is_empty() {
                        return Ok(Some(RawLog { stream: record.stream, bytes: record.bytes }));
                    }
                }
                State::Raw => match self.run()? {
                    Some(Part::Bytes(stream, bytes)) => {
                        self.returned[index(stream)] += bytes.len() as u64;
                        return Ok(Some(RawLog { stream, bytes }));
                    }
                    None => match poll_fn(|cx| self.pieces.poll(cx)).await? {
                        Some(piece) => self.piece = piece,
                        None if self.frames.is_within() => {
                            return Err(Error::new(ErrorKind::Unavailable).with_message(
                                "the connection was lost within a message of the log",
                            ));
                        }
                        None => return Ok(None),
                    },
                    Some(Part::Ambiguous) => {
                        self.pieces.body = None;
                        let records = read_log(self.log.clone(), LogOptions::default()).await?;
                        self.state = State::Records(records, self.returned);
                    }
                },
            }
        }
    }

    /// Returns the received bytes up to the next change of the stream.
    fn run(&mut self) -> Result<Option<Part>> {
        let mut run: Option<(LogStream, BytesMut)> = None;
        loop {
            let found = match self.next_part.take() {
                Some(found) => Some(found),
                None => self.part()?,
            };
            match (found, &mut run) {
                (Some(Part::Bytes(stream, bytes)), None) => run = Some((stream, bytes.into())),
                (Some(Part::Bytes(stream, bytes)), Some((same, run))) if stream == *same => {
                    run.extend_from_slice(&bytes);
                }
                (found, None) => return Ok(found),
                (found, Some(_)) => {
                    self.next_part = found;
                    break;
                }
            }
        }
        Ok(run.map(|(stream, bytes)| Part::Bytes(stream, bytes.freeze())))
    }

    /// Returns the next received part.
    fn part(&mut self) -> Result<Option<Part>> {
        let Some((kind, bytes)) = self.frames.next(&mut self.piece)? else { return Ok(None) };
        // A short piece is also ambiguous.
        let may_be_error = || bytes.starts_with(ERROR_PREFIX) || ERROR_PREFIX.starts_with(&bytes);
        Ok(Some(match kind {
            Kind::Stdout => Part::Bytes(LogStream::Stdout, bytes),
            Kind::Stderr if !self.has_error_stream && self.frames.begins() && may_be_error() => {
                Part::Ambiguous
            }
            Kind::Stderr => Part::Bytes(LogStream::Stderr, bytes),
            Kind::Engine => return Err(engine_error(&bytes)),
        }))
    }
}
