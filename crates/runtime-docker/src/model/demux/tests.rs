use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

const DOCKER: (Framing, Cut) = (Framing::Terminal, Cut::DOCKER);
const PODMAN: (Framing, Cut) = (Framing::Terminal, Cut::Anywhere);
const FRAMES: (Framing, Cut) = (Framing::Frames, Cut::Anywhere);

fn text(chunk: &Chunk) -> (u64, LogStream, String, bool) {
    let nanos = chunk.time.duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let nanos = u64::try_from(nanos).unwrap() % 1_000_000_000;
    (nanos, chunk.stream, String::from_utf8_lossy(&chunk.bytes).into_owned(), chunk.ends_line)
}

fn feed<'a>(
    (framing, cut): (Framing, Cut),
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<Chunk>> {
    let mut demux = Demux::new(framing, cut);
    let mut chunks = Vec::new();
    for piece in pieces {
        demux.push(Bytes::copy_from_slice(piece));
        while let Some(chunk) = demux.pop()? {
            chunks.push(chunk);
        }
    }
    chunks.extend(demux.finish()?);
    Ok(chunks)
}

fn frame(kind: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind, 0, 0, 0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    frame
}

fn stamped(nanos: u32, message: &[u8]) -> Vec<u8> {
    let mut out = format!("2026-11-23T16:24:36.{nanos:09}Z ").into_bytes();
    out.extend(message);
    out
}

use LogStream::{Console, Stderr, Stdout};

#[test]
fn frames_of_docker_and_podman_parse() {
    let log = [
        frame(1, b"2026-11-23T16:24:36.000000007Z out\n"),
        frame(2, b"2026-11-23T16:24:37Z err\n"),
        frame(1, b""),
        frame(1, b"2026-11-23T16:24:36.9+01:00 no end"),
        frame(1, b"2026-11-23T16:24:36.000000008Z \n"),
        frame(0, b"2026-11-23T16:24:36.000000009Z \xff\x00\r\n"),
    ]
    .concat();
    let chunks = feed(FRAMES, [&log[..]]).unwrap();
    assert_eq!(
        chunks.iter().map(text).collect::<Vec<_>>(),
        [
            (7, Stdout, "out\n".to_owned(), true),
            (0, Stderr, "err\n".to_owned(), true),
            (900_000_000, Stdout, "no end".to_owned(), false),
            (8, Stdout, "\n".to_owned(), true),
            (9, Stdout, "\u{fffd}\0\r\n".to_owned(), true),
        ]
    );
    assert_eq!(chunks[4].bytes, &b"\xff\x00\r\n"[..]);
}

#[test]
fn docker_terminal_parses() {
    let long = vec![b'x'; 20_000];
    let mut log = stamped(1, b"out\r\n");
    log.extend(stamped(2, &long[..16 << 10]));
    log.extend(stamped(2, &long[16 << 10..]));
    log.extend(b"\r\n");
    log.extend(stamped(3, b"\r\n"));
    // A time within a line is content.
    log.extend(stamped(4, &stamped(5, b"mine\n")));
    log.extend(stamped(6, b"last"));
    let chunks = feed(DOCKER, [&log[..]]).unwrap();
    let short: Vec<_> =
        chunks.iter().map(|c| (text(c).0, c.stream, c.bytes.len(), c.ends_line)).collect();
    assert_eq!(
        short,
        [
            (1, Console, 5, true),
            (2, Console, 16 << 10, false),
            (2, Console, 20_000 - (16 << 10) + 2, true),
            (3, Console, 2, true),
            (4, Console, 36, true),
            (6, Console, 4, true),
        ]
    );
    for pieces in [1, 7, 16 << 10] {
        assert_eq!(feed(DOCKER, log.chunks(pieces)).unwrap(), chunks);
    }
}

#[test]
fn docker_terminal_of_driver_with_longer_buffer_parses() {
    let mut log = stamped(1, &vec![b'x'; 40_000]);
    log.extend(b"\r\n");
    log.extend(stamped(2, b"next\r\n"));
    for pieces in [1, 16 << 10, (16 << 10) + 31, 1 << 20] {
        let chunks = feed(DOCKER, log.chunks(pieces)).unwrap();
        let lengths: Vec<_> = chunks.iter().map(|chunk| chunk.bytes.len()).collect();
        assert_eq!(lengths, [40_002, 6]);
    }
}

#[test]
fn short_message_ends_line_on_docker() {
    for (length, ends_line) in [(4, true), (16 << 10, false), (40_000, false)] {
        let log = frame(1, &stamped(1, &vec![b'x'; length]));
        let chunks = feed((Framing::Frames, Cut::DOCKER), [&log[..]]).unwrap();
        assert_eq!(chunks[0].ends_line, ends_line, "{length}");
    }
}

#[test]
fn podman_terminal_parses() {
    let pieces: [&[u8]; 8] = [
        b"2026-11-23T16:24:37Z out\r\n",
        b"2026-11-23T16:24:37Z no end",
        b"2026-11-23T16:24:38Z \r\n",
        // A long message has two writes, and a time can be split.
        b"2026-11-23T16:24:38Z half",
        b" and half",
        b"2026-11-23T",
        b"16:24:39Z \r\n2026-11-23T16:24:40Z pro",
        b"20",
    ];
    let chunks = feed(PODMAN, pieces).unwrap();
    let texts: Vec<_> = chunks.iter().map(|c| text(c).2).collect();
    assert_eq!(texts, ["out\r\n", "no end", "\r\n", "half and half", "\r\n", "pro20"]);
    let seconds: Vec<_> =
        chunks.iter().map(|c| c.time.duration_since(chunks[0].time).unwrap_or_default()).collect();
    assert_eq!(seconds, [0, 0, 1, 1, 2, 3].map(Duration::from_secs));
}

#[test]
fn errors_of_engine_are_returned() {
    for (kind, message) in [
        (3, &b"error from daemon in stream: the disk is gone"[..]),
        (2, b"Error grabbing logs: unexpected EOF\n"),
        (3, b"2026-11-23T16:24:37Z as if it were a line\n"),
    ] {
        let log = [frame(1, &stamped(1, b"good\n")), frame(kind, message)].concat();
        let mut demux = Demux::new(Framing::Frames, Cut::DOCKER);
        demux.push(log.into());
        assert!(demux.pop().unwrap().is_some());
        let error = demux.pop().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(!error.is_retryable());
        let text = String::from_utf8_lossy(message);
        assert!(error.message().unwrap().ends_with(text.trim()), "{error}");
    }
    let error = feed(DOCKER, [&b"Error grabbing logs: unexpected EOF\n"[..]]).unwrap_err();
    assert!(error.message().unwrap().ends_with("Error grabbing logs: unexpected EOF"));
}

#[test]
fn other_stream_returns_error_and_allocates_nothing() {
    for bad in [
        &b"HTTP/1.1 200 OK\r\n"[..],
        &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        &[4, 0, 0, 0, 0, 0, 0, 1],
        &[1, 1, 0, 0, 0, 0, 0, 1],
    ] {
        assert_eq!(feed(FRAMES, [bad]).unwrap_err().kind(), ErrorKind::Internal);
    }
    // The buffer grows with the received bytes, and not to the length in the header.
    let mut demux = Demux::new(Framing::Frames, Cut::DOCKER);
    demux.push(Bytes::from_static(&[1, 0, 0, 0, 0, 0xff, 0xff, 0xff, b'2']));
    assert!(demux.pop().unwrap().is_none());
    assert!(demux.held.capacity() < 1024);
}

#[test]
fn log_that_ends_within_message_returns_unavailable() {
    let log = frame(1, &stamped(1, b"good\n"));
    for cut in 1..log.len() {
        let error = feed(FRAMES, [&log[..cut]]).unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
    let error = feed(DOCKER, [&b"2026-11-23T16:2"[..]]).unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[test]
fn frame_in_one_piece_is_not_copied() {
    let log = Bytes::from(frame(1, &stamped(1, b"good\n")));
    let mut demux = Demux::new(Framing::Frames, Cut::DOCKER);
    demux.push(log.clone());
    let chunk = demux.pop().unwrap().unwrap();
    assert_eq!(chunk.bytes.as_ptr(), log[log.len() - 5..].as_ptr());
}

prop_compose! {
    fn message()(nanos in 0..1_000_000_000_u32, body in prop::collection::vec(
        prop_oneof![Just(b'\n'), Just(b'2'), Just(0), any::<u8>()], 0..60)) -> Vec<u8> {
        stamped(nanos, &body)
    }
}

/// Splits `log` at these positions.
fn pieces<'a>(log: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(log.len() + 1)).collect();
    at.extend([0, log.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &log[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn the_pieces_of_frames_do_not_matter(
        messages in prop::collection::vec((0..3_u8, message()), 0..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let log: Vec<u8> = messages.iter().flat_map(|(kind, m)| frame(*kind, m)).collect();
        let chunks = feed(FRAMES, [&log[..]]).unwrap();
        prop_assert_eq!(chunks.len(), messages.len());
        for (chunk, (_, message)) in chunks.iter().zip(&messages) {
            prop_assert_eq!(&chunk.bytes[..], &message[31..]);
        }
        prop_assert_eq!(feed(FRAMES, pieces(&log, &cuts)).unwrap(), chunks);
    }

    #[test]
    fn the_pieces_of_a_terminal_do_not_matter(
        lines in prop::collection::vec((0..1000_u32, "[a2:TZ. -]{0,40}", any::<bool>()), 0..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        // Twelve bytes in place of 16 KiB.
        let framing = (Framing::Terminal, Cut::After(12));
        let mut log = Vec::new();
        let mut wanted = Vec::new();
        for (nanos, line, whole) in &lines {
            let line = format!("{line}{}", if *whole { "\r\n" } else { "\n" });
            for part in line.as_bytes().chunks(12) {
                log.extend(stamped(*nanos, part));
                wanted.push((u64::from(*nanos), String::from_utf8(part.to_vec()).unwrap()));
            }
        }
        let chunks = feed(framing, [&log[..]]).unwrap();
        let got: Vec<_> = chunks.iter().map(|c| (text(c).0, text(c).2)).collect();
        prop_assert_eq!(got, wanted);
        prop_assert_eq!(feed(framing, pieces(&log, &cuts)).unwrap(), chunks);
    }

    #[test]
    fn any_bytes_in_any_pieces_come_to_the_same(
        log in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(b'2'), any::<u8>()], 0..200),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        for framing in [FRAMES, DOCKER] {
            let whole = feed(framing, [&log[..]]).map_err(|error| error.kind());
            let cut = feed(framing, pieces(&log, &cuts)).map_err(|error| error.kind());
            prop_assert_eq!(whole, cut);
        }
        let _ = feed(PODMAN, pieces(&log, &cuts));
    }
}
