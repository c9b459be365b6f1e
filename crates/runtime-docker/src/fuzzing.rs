//! The parsers for the fuzz targets: what they do with any bytes, in a comparable form.

use runtime_core::{Bytes, Chunk, ErrorKind, PullEvent};

use crate::demux::{Cut, Demux, Framing};
use crate::events::Message;
use crate::info::Summary;
use crate::inspect::Inspect;
use crate::pull::{Lines, Progress};
use crate::stats::answer::Answer;

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
