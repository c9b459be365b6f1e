//! The parsers with their invariants and example inputs.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, UNIX_EPOCH};

use bytes::BytesMut;
use runtime_core::{Bytes, Chunk, ImageRef, LineJoiner, LogRecord, LogStream};
use runtime_docker::fuzzing;
use runtime_support::kernel_log;
use spdy_client::codec::{ControlFrame, Encoder, Headers, ResetStatus};

/// A parser.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Panics if the parser violates an invariant; returns a number that classifies its behaviour.
    pub(crate) run: fn(&[u8]) -> u64,
    pub(crate) examples: fn() -> Vec<Vec<u8>>,
}

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "demux", run: demux, examples: logs },
    Target { name: "frames", run: frames, examples: logs },
    Target { name: "pull", run: |input| classify(fuzzing::pull(input)), examples: pulls },
    Target { name: "events", run: |input| classify(fuzzing::events(input)), examples: events },
    Target { name: "stats", run: |input| classify(fuzzing::stats(input)), examples: stats },
    Target { name: "inspect", run: |input| classify(fuzzing::inspect(input)), examples: inspects },
    Target { name: "cri-log", run: cri_log, examples: cri_logs },
    Target { name: "cri-cgroup", run: cri_cgroup, examples: cri_cgroups },
    Target { name: "cri-notes", run: cri_notes, examples: cri_notes_examples },
    Target { name: "kernel-log", run: kernel_log, examples: kernel_logs },
    Target { name: "spdy", run: spdy, examples: spdy_frames },
    Target {
        name: "spdy-headers",
        run: |input| classify(spdy_client::fuzzing::header_block(input)),
        examples: spdy_headers,
    },
    Target {
        name: "exec-outcome",
        run: |input| classify(spdy_client::fuzzing::outcome(input)),
        examples: outcomes,
    },
    Target { name: "joiner", run: joiner, examples: chunks },
    Target { name: "image-ref", run: image_ref, examples: image_refs },
];

fn classify(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// The first byte determines the chunk size.
fn demux(input: &[u8]) -> u64 {
    let Some((&cut, log)) = input.split_first() else { return 0 };
    let pieces = usize::from(cut % 64) + 1;
    let mut outcomes = Vec::new();
    for form in [fuzzing::Log::Frames, fuzzing::Log::Terminal, fuzzing::Log::PodmanTerminal] {
        let whole = fuzzing::demux(form, [log]);
        let parts = fuzzing::demux(form, log.chunks(pieces));
        // The result must not depend on the chunk size, up to an error, which can be reported
        // earlier if more of the log is available. The terminal log of Podman is split at chunk
        // borders.
        if form != fuzzing::Log::PodmanTerminal {
            assert_eq!(whole, parts, "the result depends on the chunk size");
        }
        let given: usize = whole.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        assert!(given <= log.len(), "more bytes were returned than read");
        outcomes.push((whole.chunks.len().min(16), whole.error.is_some(), parts.error.is_some()));
    }
    classify(outcomes)
}

/// The first byte determines the chunk size.
fn frames(input: &[u8]) -> u64 {
    let Some((&cut, wire)) = input.split_first() else { return 0 };
    let whole = fuzzing::frames([wire]);
    let parts = fuzzing::frames(wire.chunks(usize::from(cut % 64) + 1));
    assert_eq!(whole, parts, "the result depends on the chunk size");
    let given: usize = whole.parts.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(given + 8 * whole.begun <= wire.len(), "more bytes were returned than read");
    classify((
        whole.parts.len().min(16),
        whole.begun.min(16),
        whole.is_within,
        whole.error.is_some(),
    ))
}

fn frame(kind: u8, text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("examples are short");
    [&[kind, 0, 0, 0][..], &length.to_be_bytes(), text.as_bytes()].concat()
}

fn logs() -> Vec<Vec<u8>> {
    const OUT: &str = "2026-11-23T16:24:36.876662544Z out\n";
    const ERR: &str = "2026-11-23T16:24:37+01:00 err";
    let terminal = "2026-11-23T16:24:36.876662544Z one\r\n2026-11-23T16:24:36.9Z two\r\n";
    let frames = [frame(1, OUT), frame(2, ERR), frame(1, ""), frame(3, "the disk is gone")];
    vec![
        [vec![7], frames.concat()].concat(),
        [vec![63], frame(1, OUT), frame(2, ERR)].concat(),
        [vec![3], terminal.into()].concat(),
        [vec![27], terminal.into(), ERR.into()].concat(),
    ]
}

/// The first two bytes determine the block size and the maximum line length.
fn cri_log(input: &[u8]) -> u64 {
    let Some((&[block, line], file)) = input.split_first_chunk() else { return 0 };
    let max_line = usize::from(line).max(1);
    let whole = runtime_cri::fuzzing::log_file(file, file.len(), max_line);
    let parts = runtime_cri::fuzzing::log_file(file, usize::from(block) + 1, max_line);
    assert_eq!(whole, parts, "the result depends on the block size");
    let given: usize = whole.records.iter().map(|record| record.bytes.len()).sum();
    let passed_over = usize::try_from(whole.passed_over).expect("a file in memory");
    assert!(given + passed_over <= file.len(), "more bytes were returned than read");
    assert!(whole.records.iter().all(|record| record.bytes.len() <= max_line));
    let heads = file.split(|byte| *byte == b'\n').count();
    let pieces = whole.records.iter().filter(|record| record.continues).count();
    assert!(whole.records.len() - pieces <= heads, "a line was made up");
    classify((whole.records.len().min(32), pieces.min(16), passed_over.min(256)))
}

fn cri_logs() -> Vec<Vec<u8>> {
    const LINES: &str = "2026-11-23T16:24:36.876662544Z stdout F one\n\
                         2026-11-23T16:24:36.9Z stderr P half and \n\
                         2026-11-23T16:24:37+01:00 stdout F \n\
                         2026-11-23T16:24:38Z stderr F half\n";
    let torn = format!("{LINES}2026-11-23T16:2\0\0\0{LINES}2026-11-23T16:24:39Z stdout F la");
    [(255, 255, LINES), (6, 3, LINES), (40, 100, torn.as_str())]
        .map(|(block, line, text)| [&[block, line], text.as_bytes()].concat())
        .into()
}

/// The input before the first NUL is a table or a `/proc` file of a process; the mounts follow it.
fn cri_cgroup(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    let (table, mounts) = text.split_once('\0').unwrap_or((&text, ""));
    let tables = runtime_cri::fuzzing::tables(table);
    let turned: Vec<&str> = table.lines().rev().collect();
    let again = runtime_cri::fuzzing::tables(&turned.join("\n"));
    let sums =
        |tables: &runtime_cri::fuzzing::Tables| [tables.blkio, tables.io_stat, tables.net_dev];
    assert_eq!(sums(&tables), sums(&again), "the result depends on the order of the lines");
    let found = runtime_cri::fuzzing::cgroup_of(table, mounts);
    let sizes = sums(&tables).map(|(a, b)| (a.checked_ilog2(), b.checked_ilog2()));
    classify((sizes, tables.cpus.map(u32::checked_ilog2), found.map(|found| found.len().min(128))))
}

fn cri_cgroups() -> Vec<Vec<u8>> {
    [
        "8:0 Read 10\n8:0 Write 3\n8:0 Sync 13\n8:16 Read 5\nTotal 18\n",
        "8:0 rbytes=1 wbytes=2 rios=9\n8:16 rbytes=3 wbytes=4\n",
        "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n\
         lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\neth0: 100 2 0 0 0 0 0 0 200 3 0 0 0 0 0 0\n",
        "0-3,5",
        "7:cpu,blkio:/k8s.io/abc\n0::/k8s.io/abc\n\0\
         35 25 0:32 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n",
        "0::/kube/abc\n\x0031 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

fn cri_notes(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    let Some(written) = runtime_cri::fuzzing::notes(&text) else { return 0 };
    let again = runtime_cri::fuzzing::notes(&written).expect("the encoded form can be parsed");
    assert_eq!(written, again, "the encoded form does not round-trip");
    classify((written.len().min(512), written.matches('"').count().min(64)))
}

fn cri_notes_examples() -> Vec<Vec<u8>> {
    [
        r#"{"image":"r.io/a:1","resolved":"r.io/a@sha256:0","image_id":"sha256:1","ports":[{"host_port":40000,"container_port":80}],"memory":1073741824,"cpu_count":0.5,"terminal":true,"stdin":false,"stop_grace":7,"stop_signal":"SIGINT","logs":"/var/log/x","shared_memory":"/run/x/shm","labels":{"a":"b"}}"#,
        r#"{"image":"","memory":null,"cpu_count":1e-7,"stop_grace":18446744073709551615,"labels":{}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// Each line is a record.
fn kernel_log(input: &[u8]) -> u64 {
    let mut parser = kernel_log::Parser::default();
    let records = input.split_inclusive(|byte| *byte == b'\n');
    let kills: Vec<_> = records.filter_map(|record| parser.record(record)).collect();
    for kill in &kills {
        for path in [&kill.limit, &kill.victim] {
            assert!(path.starts_with('/') && !path.contains(",task="), "{path} is not a path");
        }
    }
    let given: usize = kills.iter().map(|kill| kill.limit.len() + kill.victim.len()).sum();
    assert!(given <= input.len(), "more bytes were returned than read");
    let below = kills.iter().filter(|kill| kill.victim != kill.limit).count();
    classify((kills.len().min(16), below.min(16)))
}

fn kernel_logs() -> Vec<Vec<u8>> {
    [
        "6,429,460593424,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
         oom_memcg=/a,task_memcg=/a/b,task=tail,pid=13,uid=0\n\
         3,430,460593551,-;Memory cgroup out of memory: Killed process 13 (tail)\n",
        "6,1,7,-,caller=T13;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=0,cpuset=x,mems_allowed=0-1,3,\
         oom_memcg=\n14,2,7,-;filler\n4,3,7,c;/a,task_memcg=/a,task=a,task=b,pid=13,uid=0\n",
        "6,1,7,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,\
         task_memcg=/a,task=tail,pid=13,uid=0\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// The first byte determines the chunk size.
fn spdy(input: &[u8]) -> u64 {
    let Some((&cut, wire)) = input.split_first() else { return 0 };
    let whole = spdy_client::fuzzing::frames(wire, wire.len());
    let parts = spdy_client::fuzzing::frames(wire, usize::from(cut) + 1);
    assert_eq!(whole, parts, "the result depends on the chunk size");
    classify((whole.0.min(32), whole.1))
}

fn headers() -> Headers {
    let mut headers = Headers::new();
    for (name, value) in [("streamtype", "stdin"), ("x-many", "a"), ("x-many", "b")] {
        headers.append(name, value.to_owned()).expect("it is a header");
    }
    headers
}

fn spdy_frames() -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new().expect("an encoder");
    let mut wire = BytesMut::from(&[9][..]);
    let (stream_id, fin) = (1, false);
    for frame in [
        ControlFrame::SynReply { stream_id, fin, headers: headers() },
        ControlFrame::Headers { stream_id, fin, headers: headers() },
        ControlFrame::Ping { id: 2 },
        ControlFrame::RstStream { stream_id, status: ResetStatus::CANCEL },
        ControlFrame::GoAway { last_good_stream_id: 1, status: 0 },
    ] {
        encoder.control(&frame, &mut wire).expect("it can be written");
        Encoder::data(stream_id, fin, b"data", &mut wire).expect("it can be written");
    }
    vec![wire.to_vec()]
}

fn spdy_headers() -> Vec<Vec<u8>> {
    // The bytes after the frame header and the stream fields of the first frame.
    let compressed = spdy_frames().remove(0).split_off(1 + 8 + 4);
    vec![compressed, b"\0\0\0\x01\0\0\0\x01a\0\0\0\x01b".to_vec()]
}

fn outcomes() -> Vec<Vec<u8>> {
    [
        r#"{"metadata":{},"status":"Success"}"#,
        r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#,
        r#"{"status":"Failure","reason":"InternalError","message":"oops","code":500}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

fn pulls() -> Vec<Vec<u8>> {
    [
        r#"{"status":"Pulling from test/layers","id":"1"}
{"status":"Pulling fs layer","progressDetail":{},"id":"aa"}
{"status":"Downloading","progressDetail":{"current":41,"total":4194},"progress":"[>","id":"aa"}
{"status":"Extracting","progressDetail":{"current":4194,"total":4194},"id":"aa"}
{"status":"Pull complete","progressDetail":{},"id":"aa"}
{"status":"Digest: sha256:00"}
"#,
        r#"{"errorDetail":{"message":"manifest unknown"},"error":"manifest unknown"}"#,
        r#"{"status":"Already exists","progressDetail":{},"id":"bb"}
{"id":"cc","status":"Downloading","progressDetail":{"current":-1,"total":0}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

fn events() -> Vec<Vec<u8>> {
    [
        r#"{"status":"die","id":"aa","from":"busybox","Type":"container","Action":"die","Actor":{"ID":"aa","Attributes":{"exitCode":"137","name":"x","container-runtime/scope":"s"}},"scope":"local","time":1795451076,"timeNano":1795451076876662544}
"#,
        r#"{"Type":"container","Action":"exec_start: sh","Actor":{"ID":"aa","Attributes":null},"timeNano":0}
{"Type":"container","Action":"oom"}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

fn stats() -> Vec<Vec<u8>> {
    [
        r#"{"read":"2026-11-23T17:02:56.48006905Z","blkio_stats":{"io_service_bytes_recursive":[{"major":254,"op":"Read","value":69632},{"op":"write","value":1}]},"cpu_stats":{"cpu_usage":{"total_usage":1328814311},"online_cpus":2},"memory_stats":{"usage":77725696,"stats":{"total_inactive_file":4096,"inactive_file":1},"limit":134217728},"networks":{"eth0":{"rx_bytes":5006528,"tx_bytes":2822},"lo":{}}}"#,
        r#"{"read":"0001-01-01T00:00:00Z","blkio_stats":{"io_service_bytes_recursive":null},"memory_stats":{}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

fn inspects() -> Vec<Vec<u8>> {
    [
        r#"{"Id":"aa","Created":"2026-11-23T16:39:14.969965638Z","State":{"Status":"exited","Running":false,"OOMKilled":true,"ExitCode":137,"Error":"","StartedAt":"2026-11-23T16:39:15Z","FinishedAt":"2026-11-23T16:39:16.5Z"},"Image":"sha256:00","Name":"/x","RestartCount":0,"HostConfig":{"Memory":6291456,"NanoCpus":500000000,"CpuQuota":-1,"CpuPeriod":0,"LogConfig":{"Type":"json-file"},"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"0"}]}},"Config":{"Tty":true,"Image":"busybox","Labels":{"a":"b","container-runtime/image":"busybox"},"StopTimeout":10},"NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"32768"},{"HostIp":"::","HostPort":"32769"}],"1/udp":null}}}"#,
        r#"[{"Id":"aa","Names":["/x"],"Image":"busybox","ImageID":"sha256:00","Created":1795451076,"Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":32768,"Type":"tcp"}],"Labels":{"a":"b"},"State":"exited","Status":"Exited (137) 2 seconds ago"}]"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// The first byte is the maximum line length. After it, two bytes and a text form a chunk: stream
/// and line end, time, length of the text.
fn joiner(input: &[u8]) -> u64 {
    let Some((&max, mut rest)) = input.split_first() else { return 0 };
    let max_line = usize::from(max) + 1;
    let mut joiner = LineJoiner::new(max_line);
    let (mut given, mut taken) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
    let (mut records, mut marked, mut lines) = (0_usize, 0_usize, 0_usize);
    let mut take = |record: LogRecord| {
        assert!(record.bytes.len() <= max_line, "a chunk is over the limit");
        records += 1;
        marked += usize::from(record.continues);
        taken[record.stream as usize].extend_from_slice(&record.bytes);
    };
    let mut time = 0;
    while let [head, gap, tail @ ..] = rest {
        let length = usize::from(head >> 3).min(tail.len());
        let (text, after) = tail.split_at(length);
        rest = after;
        time += u64::from(*gap);
        let stream = [LogStream::Stdout, LogStream::Stderr, LogStream::Console, LogStream::Unknown]
            [usize::from(head & 3)];
        let ends_line = head & 4 != 0;
        lines += usize::from(ends_line);
        given[stream as usize].extend_from_slice(text);
        joiner.push(Chunk {
            time: UNIX_EPOCH + Duration::from_nanos(time),
            stream,
            bytes: Bytes::copy_from_slice(text),
            ends_line,
        });
        while let Some(record) = joiner.pop() {
            take(record);
        }
    }
    joiner.finish();
    while let Some(record) = joiner.pop() {
        take(record);
    }
    assert!(!joiner.is_in_line() && joiner.pop().is_none());
    assert_eq!(given, taken, "bytes are lost or reordered");
    assert!(records - marked >= lines, "a line end is lost");
    classify((records.min(64), marked.min(16), lines.min(64)))
}

fn chunks() -> Vec<Vec<u8>> {
    vec![
        [&[9][..], &[5 << 3 | 4, 1], b"line\n", &[3 << 3 | 1, 0], b"err", &[8 | 5, 1], b"\n"]
            .concat(),
        [&[3][..], &[7 << 3, 1], b"0123456", &[2 << 3 | 5, 1], b"x\n", &[8 | 4, 0], b"\n"].concat(),
    ]
}

fn image_ref(input: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(input);
    match text.parse::<ImageRef>() {
        Ok(image) => {
            let normal = image.to_string();
            let again: ImageRef = normal.parse().expect("the normal form can be parsed");
            assert_eq!(again, image);
            assert_eq!(again.to_string(), normal, "the normal form is not stable");
            classify((1, normal.matches([':', '@', '/', '.']).count(), normal.len().min(64)))
        }
        Err(error) => classify((0, error.message().map(|words| words.len().min(256)))),
    }
}

fn image_refs() -> Vec<Vec<u8>> {
    [
        "busybox",
        "library/busybox:1.36",
        "127.0.0.1:5000/test/busybox:1",
        "Registry.example.com:443/a/b-c/d__e@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "[::1]:5000/x:latest@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
