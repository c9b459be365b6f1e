//! The parsers for the fuzz targets: what they do with any bytes, in a comparable form.

use runtime_core::{Bytes, Chunk, ErrorKind, PullEvent};

use crate::model::demux::{Cut, Demux, Framing};
use crate::model::events::Message;
use crate::model::frames::Frames;
use crate::model::info::Summary;
use crate::model::inspect::Inspect;
use crate::model::progress::{Lines, Progress};
use crate::model::stats::Answer;

/// The forms of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// Frames.
    Frames,
    /// A terminal on Docker.
    Terminal,
    /// A terminal on Podman.
    PodmanTerminal,
}

/// What the demultiplexer gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Demuxed {
    /// The chunks before the error.
    pub chunks: Vec<Chunk>,
    /// The error.
    pub error: Option<ErrorKind>,
}

/// Takes a log apart that comes in pieces.
pub fn demux<'a>(log: Log, pieces: impl IntoIterator<Item = &'a [u8]>) -> Demuxed {
    let (framing, cut) = match log {
        Log::Frames => (Framing::Frames, Cut::DOCKER),
        // So that short inputs reach the cut.
        Log::Terminal => (Framing::Terminal, Cut::After(8)),
        Log::PodmanTerminal => (Framing::Terminal, Cut::Anywhere),
    };
    let mut demux = Demux::new(framing, cut);
    let mut chunks = Vec::new();
    for piece in pieces {
        demux.push(Bytes::copy_from_slice(piece));
        loop {
            match demux.pop() {
                Ok(Some(chunk)) => chunks.push(chunk),
                Ok(None) => break,
                Err(error) => return Demuxed { chunks, error: Some(error.kind()) },
            }
        }
    }
    match demux.finish() {
        Ok(last) => {
            chunks.extend(last);
            Demuxed { chunks, error: None }
        }
        Err(error) => Demuxed { chunks, error: Some(error.kind()) },
    }
}

/// What a stream of frames without times gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Messages {
    /// The messages of a kind that follow each other, in one.
    pub parts: Vec<(u8, Vec<u8>)>,
    /// How many messages have begun.
    pub begun: usize,
    /// Whether it ended within one.
    pub is_within: bool,
    /// The error.
    pub error: Option<ErrorKind>,
}

/// Takes a stream of frames apart that comes in pieces: a session's, or a raw log's.
pub fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Messages {
    let mut frames = Frames::default();
    let (mut parts, mut begun, mut error) = (Vec::<(u8, Vec<u8>)>::new(), 0, None);
    'all: for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match frames.next(&mut piece) {
                Ok(Some((kind, bytes))) => {
                    begun += usize::from(frames.begins());
                    match parts.last_mut() {
                        Some((last, part)) if *last == kind as u8 => part.extend_from_slice(&bytes),
                        _ => parts.push((kind as u8, bytes.to_vec())),
                    }
                }
                Ok(None) => break,
                Err(failure) => {
                    error = Some(failure.kind());
                    break 'all;
                }
            }
        }
    }
    Messages { parts, begun, is_within: frames.is_within(), error }
}

/// Reads the answer to a pull: how many events of each kind, and whether it failed.
#[must_use]
pub fn pull(answer: &[u8]) -> ([usize; 3], bool) {
    let (mut lines, mut progress) = (Lines::default(), Progress::default());
    let mut counts = [0; 3];
    let mut count = |events: Vec<PullEvent>| {
        for event in events {
            match event {
                PullEvent::Message { .. } => counts[0] += 1,
                PullEvent::Layer { current, total, .. } => {
                    counts[1] += usize::from(total.is_none_or(|total| current <= total));
                }
                _ => counts[2] += 1,
            }
        }
    };
    let mut failed = false;
    for piece in answer.chunks(100) {
        lines.push(piece);
        while let Some(line) = lines.next() {
            match progress.take(&line) {
                Ok(events) => count(events),
                Err(_) => failed = true,
            }
        }
    }
    match progress.take(&lines.rest()) {
        Ok(events) => count(events),
        Err(_) => failed = true,
    }
    count(progress.finish().collect());
    (counts, failed)
}

/// Reads the engine's events.
#[must_use]
pub fn events(answer: &[u8]) -> Vec<Option<(String, bool, Option<i32>)>> {
    answer
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let message: Message = serde_json::from_slice(line).ok()?;
            let exit = message.exit().and_then(|exit| exit.code);
            Some((message.action().to_owned(), message.container().is_some(), exit))
        })
        .collect()
}

/// Reads an answer to stats: which values are there.
#[must_use]
pub fn stats(answer: &[u8]) -> Option<Vec<&'static str>> {
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let _ = answer.online_cpus();
    let stats = answer.stats(false)?;
    let values = [
        ("cpu", stats.cpu_time.is_some()),
        ("memory", stats.memory_bytes.is_some()),
        ("percent", stats.memory_percent.is_some()),
        ("rx", stats.network_rx_bytes.is_some()),
        ("tx", stats.network_tx_bytes.is_some()),
        ("read", stats.block_read_bytes.is_some()),
        ("write", stats.block_write_bytes.is_some()),
    ];
    Some(values.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect())
}

/// Reads an answer to an inspect or a list: the state and what is there.
#[must_use]
pub fn inspect(answer: &[u8]) -> Vec<String> {
    if let Ok(inspect) = serde_json::from_slice::<Inspect>(answer) {
        let info = inspect.info(inspect.exit());
        let reason = info.exit.as_ref().map(|exit| exit.reason);
        let there = (info.ended_at.is_some(), info.memory.is_some(), info.cpu_count.is_some());
        return vec![format!("{} {reason:?} {there:?} {}", info.status, info.tcp_ports.len())];
    }
    let list: Vec<Summary> = serde_json::from_slice(answer).unwrap_or_default();
    list.iter()
        .map(|summary| {
            let info = summary.info(None);
            format!("{} {:?} {}", info.status, info.created_at.is_some(), info.tcp_ports.len())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    /// Names that the engines' answers have, each where it may or may not belong.
    const NAMES: &[&str] = &[
        "Id",
        "Type",
        "Action",
        "Actor",
        "ID",
        "Attributes",
        "exitCode",
        "time",
        "timeNano",
        "Created",
        "State",
        "Status",
        "Running",
        "OOMKilled",
        "ExitCode",
        "Error",
        "StartedAt",
        "FinishedAt",
        "HostConfig",
        "Memory",
        "NanoCpus",
        "CpuQuota",
        "CpuPeriod",
        "Config",
        "Labels",
        "NetworkSettings",
        "Ports",
        "80/tcp",
        "HostIp",
        "HostPort",
        "Names",
        "PrivatePort",
        "PublicPort",
    ];

    fn values() -> impl Strategy<Value = Value> {
        let words = prop::sample::select(vec![
            "container",
            "die",
            "exited",
            "created",
            "Exited (137) 2 seconds ago",
            "2026-11-23T16:39:14.969965638Z",
            "65536",
            "0.0.0.0",
            "tcp",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            words.prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            let names = prop::sample::select(NAMES).prop_map(str::to_owned);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(names, inner, 0..12)
                    .prop_map(|map| Value::from(map.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = (events(&bytes), inspect(&bytes), frames([&bytes[..]]));
        }

        #[test]
        fn no_answer_makes_it_panic(answer in values()) {
            let answer = serde_json::to_vec(&answer).unwrap();
            let _ = (events(&answer), inspect(&answer));
        }
    }
}
