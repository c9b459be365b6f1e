//! The parsers for the fuzz targets. They return their results in a comparable form.

use runtime_core::{Bytes, Chunk, ErrorKind, PullEvent};

use crate::model::demux::{Cut, Demux, Framing};
use crate::model::events::Message;
use crate::model::frames::Frames;
use crate::model::info::Summary;
use crate::model::inspect::Inspect;
use crate::model::progress::{Lines, Progress};
use crate::model::stats::StatsResponse;

/// The formats of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// Frames.
    Frames,
    /// A terminal on Docker.
    Terminal,
    /// A terminal on Podman.
    PodmanTerminal,
}

/// The result of the demultiplexer.
#[derive(Debug, PartialEq, Eq)]
pub struct Demuxed {
    /// The chunks before the error.
    pub chunks: Vec<Chunk>,
    /// The error.
    pub error: Option<ErrorKind>,
}

/// Splits the pieces of a log into chunks.
pub fn demux<'a>(log: Log, pieces: impl IntoIterator<Item = &'a [u8]>) -> Demuxed {
    let (framing, cut) = match log {
        Log::Frames => (Framing::Frames, Cut::DOCKER),
        // Short, so that small inputs are split.
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

/// The result of parsing a stream of frames without times.
#[derive(Debug, PartialEq, Eq)]
pub struct Messages {
    /// The content, with adjacent messages of one kind joined.
    pub parts: Vec<(u8, Vec<u8>)>,
    /// The number of messages.
    pub begun: usize,
    /// `true` if the last message is incomplete.
    pub is_within: bool,
    /// The error.
    pub error: Option<ErrorKind>,
}

/// Splits the pieces of a stream of frames, of a session or a raw log.
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

/// Parses the response of a pull. Returns the number of events of each kind, and if it failed.
#[must_use]
pub fn pull(response: &[u8]) -> ([usize; 3], bool) {
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
    for piece in response.chunks(100) {
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

/// Parses the engine's events.
#[must_use]
pub fn events(response: &[u8]) -> Vec<Option<(String, bool, Option<i32>)>> {
    response
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let message: Message = serde_json::from_slice(line).ok()?;
            let exit = message.exit().and_then(|exit| exit.code);
            Some((message.action().to_owned(), message.container().is_some(), exit))
        })
        .collect()
}

/// Parses a response of stats. Returns the names of the present values.
#[must_use]
pub fn stats(response: &[u8]) -> Option<Vec<&'static str>> {
    let response: StatsResponse = serde_json::from_slice(response).ok()?;
    let _ = response.online_cpus();
    let stats = response.stats(false)?;
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

/// Parses a response of an inspect or a list. Returns the states and the present values.
#[must_use]
pub fn inspect(response: &[u8]) -> Vec<String> {
    if let Ok(inspect) = serde_json::from_slice::<Inspect>(response) {
        let info = inspect.info(inspect.exit());
        let reason = info.exit.as_ref().map(|exit| exit.reason);
        let there = (info.ended_at.is_some(), info.memory.is_some(), info.cpu_count.is_some());
        return vec![format!("{} {reason:?} {there:?} {}", info.status, info.tcp_ports.len())];
    }
    let list: Vec<Summary> = serde_json::from_slice(response).unwrap_or_default();
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

    /// Names of fields in the engines' responses.
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
        fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = (events(&bytes), inspect(&bytes), frames([&bytes[..]]));
        }

        #[test]
        fn any_response_does_not_panic(response in values()) {
            let response = serde_json::to_vec(&response).unwrap();
            let _ = (events(&response), inspect(&response));
        }
    }
}
