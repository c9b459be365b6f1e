//! A log without times: the frames as they come, those of one stream put together.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream;
use runtime_core::{Error, ErrorKind, LogOptions, LogReader, LogStream, RawLog, RawLogs, Result};
use runtime_support::follow::{OpenLog, read_log};

use super::{EngineLog, Pieces};
use crate::model::demux::engine_error;
use crate::model::frames::{Frames, Kind};

/// How engines up to 20.10 begin a message of their own, on the container's standard error. Later
/// ones have a stream for that.
const MARK: &[u8] = b"Error grabbing logs: ";

/// The first release that says by the stream that a message is its own.
const MARKS_ERRORS: [u32; 3] = [22, 0, 0];

/// Opens a log.
pub(super) async fn open(log: EngineLog) -> Result<RawLogs> {
    let marks_errors = log.backend.engine.release() >= MARKS_ERRORS;
    let pieces = log.ask(OpenLog::default(), false).await?;
    let raw = Raw {
        log,
        pieces,
        marks_errors,
        frames: Frames::default(),
        piece: Bytes::new(),
        held: None,
        given: [0; 2],
        state: State::Raw,
    };
    Ok(Box::pin(stream::unfold(raw, |mut raw| async move {
        let next = match raw.next().await {
            Ok(next) => Ok(next?),
            Err(error) => {
                raw.state = State::Over;
                Err(raw.pieces.fail(error))
            }
        };
        Some((next, raw))
    })))
}

struct Raw {
    log: EngineLog,
    pieces: Pieces,
    marks_errors: bool,
    frames: Frames,
    piece: Bytes,
    /// What comes after the bytes that were given last.
    held: Option<Found>,
    /// How many bytes of each stream were given.
    given: [u64; 2],
    state: State,
}

enum Found {
    Bytes(LogStream, Bytes),
    /// Something that may be the engine's.
    Doubt,
}

enum State {
    Raw,
    /// Something may be the container's or the engine's, and only the times tell: these are the
    /// records, of which so many bytes of each stream were given.
    Records(LogReader, [u64; 2]),
    Over,
}

fn side(stream: LogStream) -> usize {
    usize::from(stream == LogStream::Stderr)
}

impl Raw {
    async fn next(&mut self) -> Result<Option<RawLog>> {
        loop {
            match &mut self.state {
                State::Over => return Ok(None),
                State::Records(records, given) => {
                    let Some(record) = records.next().await else { return Ok(None) };
                    let mut record = record?;
                    let given = &mut given[side(record.stream)];
                    let passed = (*given).min(record.bytes.len() as u64);
                    *given -= passed;
                    let _ = record.bytes.split_to(usize::try_from(passed).unwrap_or(usize::MAX));
                    if !record.bytes.is_empty() {
                        return Ok(Some(RawLog { stream: record.stream, bytes: record.bytes }));
                    }
                }
                State::Raw => match self.run()? {
                    Some(Found::Bytes(stream, bytes)) => {
                        self.given[side(stream)] += bytes.len() as u64;
                        return Ok(Some(RawLog { stream, bytes }));
                    }
                    None => match poll_fn(|cx| self.pieces.poll(cx)).await? {
                        Some(piece) => self.piece = piece,
                        None if self.frames.is_within() => {
                            return Err(Error::new(ErrorKind::Unavailable)
                                .with_message("the log was cut off within a message"));
                        }
                        None => return Ok(None),
                    },
                    Some(Found::Doubt) => {
                        self.pieces.body = None;
                        let records = read_log(self.log.clone(), LogOptions::default()).await?;
                        self.state = State::Records(records, self.given);
                    }
                },
            }
        }
    }

    /// The next bytes of one stream, of those that are there.
    fn run(&mut self) -> Result<Option<Found>> {
        let mut run: Option<(LogStream, BytesMut)> = None;
        loop {
            let found = match self.held.take() {
                Some(found) => Some(found),
                None => self.find()?,
            };
            match (found, &mut run) {
                (Some(Found::Bytes(stream, bytes)), None) => run = Some((stream, bytes.into())),
                (Some(Found::Bytes(stream, bytes)), Some((same, run))) if stream == *same => {
                    run.extend_from_slice(&bytes);
                }
                (found, None) => return Ok(found),
                (found, Some(_)) => {
                    self.held = found;
                    break;
                }
            }
        }
        Ok(run.map(|(stream, bytes)| Found::Bytes(stream, bytes.freeze())))
    }

    /// The next of what is there.
    fn find(&mut self) -> Result<Option<Found>> {
        let Some((kind, bytes)) = self.frames.next(&mut self.piece)? else { return Ok(None) };
        // Of a message that is cut off short it is not known either.
        let may_be_mark = || bytes.starts_with(MARK) || MARK.starts_with(&bytes);
        Ok(Some(match kind {
            Kind::Stdout => Found::Bytes(LogStream::Stdout, bytes),
            Kind::Stderr if !self.marks_errors && self.frames.begins() && may_be_mark() => {
                Found::Doubt
            }
            Kind::Stderr => Found::Bytes(LogStream::Stderr, bytes),
            Kind::Engine => return Err(engine_error(&bytes)),
        }))
    }
}
