//! The parsers, for the fuzzer. Not part of the interface.

use std::collections::BTreeMap;

use bytes::Bytes;
use runtime_core::{LineJoiner, LogRecord};

use crate::host::cgroup;
use crate::model::annotations::{ANNOTATION, Annotations};
use crate::model::log_format::Parser;

/// What a log file gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Its records, in order.
    pub records: Vec<LogRecord>,
    /// How many bytes were passed over.
    pub passed_over: u64,
}

/// Reads a log file that comes in blocks of at least one byte, with lines of up to `max_line`.
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
    Log { records, passed_over: parser.passed_over() }
}

/// What a text gives when it is taken for each of the kernel's tables. The sums are pairs of bytes in
/// and bytes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// As the disk figures of cgroups in version 1.
    pub blkio: (u64, u64),
    /// As those of version 2.
    pub io_stat: (u64, u64),
    /// As those of network interfaces.
    pub net_dev: (u64, u64),
    /// As a list of CPUs.
    pub cpus: Option<u32>,
}

/// Reads a text as each of the kernel's tables.
#[must_use]
pub fn tables(text: &str) -> Tables {
    Tables {
        blkio: cgroup::blkio(text),
        io_stat: cgroup::io_stat(text),
        net_dev: cgroup::net_dev(text),
        cpus: cgroup::count_list(text),
    }
}

/// Finds a cgroup in what the kernel says of a process and of mounts. Gives how it was found.
#[must_use]
pub fn cgroup_of(of_process: &str, mounts: &str) -> Option<String> {
    cgroup::find(of_process, mounts).map(|cgroup| format!("{cgroup:?}"))
}

/// Reads the notes on a container. Gives how they are written, where they can be read.
#[must_use]
pub fn notes(text: &str) -> Option<String> {
    let notes = Annotations::read(&BTreeMap::from([(ANNOTATION.to_owned(), text.to_owned())]))?;
    notes.stop_grace();
    notes.log_directory();
    notes.to_map().remove(ANNOTATION)
}
