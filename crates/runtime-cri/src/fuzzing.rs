//! Parsers for the fuzzer. Not part of the public API.

use std::collections::BTreeMap;

use bytes::Bytes;
use runtime_core::{LineJoiner, LogRecord};

use crate::host::cgroup;
use crate::model::annotations::{ANNOTATION, Annotations};
use crate::model::log_format::Parser;

/// Content of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Records in order.
    pub records: Vec<LogRecord>,
    /// Number of skipped bytes.
    pub passed_over: u64,
}

/// Parses a log file in blocks of at least one byte, with lines of up to `max_line`.
#[must_use]
pub fn log_file(file: &[u8], block: usize, max_line: usize) -> Log {
    let mut parser = Parser::new(false);
    let mut joiner = LineJoiner::new(max_line.max(1));
    let mut records = Vec::new();
    for part in file.chunks(block.max(1)) {
        let mut fed = parser.take_rest().to_vec();
        fed.extend_from_slice(part);
        parser.feed(Bytes::from(fed));
        while let Some(chunk) = parser.next() {
            joiner.push(chunk);
            records.extend(std::iter::from_fn(|| joiner.pop()));
        }
    }
    if let Some(chunk) = parser.finish() {
        joiner.push(chunk);
    }
    joiner.finish();
    records.extend(std::iter::from_fn(|| joiner.pop()));
    Log { records, passed_over: parser.skipped_bytes() }
}

/// Results for a text as each table of the kernel. The sums are pairs of bytes in and bytes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Block I/O of cgroups in version 1.
    pub blkio: (u64, u64),
    /// Block I/O of cgroups in version 2.
    pub io_stat: (u64, u64),
    /// Bytes of network interfaces.
    pub net_dev: (u64, u64),
    /// Number of CPUs in a list.
    pub cpus: Option<u32>,
}

/// Parses a text as each table of the kernel.
#[must_use]
pub fn tables(text: &str) -> Tables {
    Tables {
        blkio: cgroup::blkio(text),
        io_stat: cgroup::io_stat(text),
        net_dev: cgroup::net_dev(text),
        cpus: cgroup::count_list(text),
    }
}

/// Finds a cgroup from the cgroup file of a process and the mounts, and returns its debug output.
#[must_use]
pub fn cgroup_of(of_process: &str, mounts: &str) -> Option<String> {
    cgroup::find(of_process, mounts).map(|cgroup| format!("{cgroup:?}"))
}

/// Parses the annotations of a container, and returns them as they are written.
#[must_use]
pub fn notes(text: &str) -> Option<String> {
    let notes = Annotations::read(&BTreeMap::from([(ANNOTATION.to_owned(), text.to_owned())]))?;
    notes.stop_grace();
    notes.log_directory();
    notes.to_map().remove(ANNOTATION)
}
