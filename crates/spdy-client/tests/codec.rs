//! Codec: round trips with any chunking, frames recorded from real servers, and invalid bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use spdy_client::codec::{
    CodecError, Compressor, ControlFrame, DICTIONARY_ADLER32, Decoded, Decoder, Decompressor,
    Encoder, Headers, MAX_CONTROL_PAYLOAD, ResetStatus, Setting, dictionary,
};
use spdy_client::fuzzing;

const STREAM_ID: std::ops::RangeInclusive<u32> = 1..=0x7fff_ffff;

/// An owned frame.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Frame {
    Control(ControlFrame),
    Data { stream_id: u32, fin: bool, data: Vec<u8> },
}

fn headers() -> impl Strategy<Value = Headers> {
    let value = vec(1..=255_u8, 0..40);
    vec(("[a-zA-Z0-9:_.-]{1,12}", value), 0..8).prop_map(|entries| {
        let mut headers = Headers::new();
        for (name, value) in entries {
            headers.append(&name, value).unwrap();
        }
        headers
    })
}

fn control() -> impl Strategy<Value = ControlFrame> {
    prop_oneof![
        (STREAM_ID, 0..=0x7fff_ffff_u32, 0..8_u8, any::<(bool, bool)>(), headers()).prop_map(
            |(stream_id, associated, priority, (fin, unidirectional), headers)| {
                ControlFrame::SynStream {
                    stream_id,
                    associated,
                    priority,
                    fin,
                    unidirectional,
                    headers,
                }
            }
        ),
        (STREAM_ID, any::<bool>(), headers()).prop_map(|(stream_id, fin, headers)| {
            ControlFrame::SynReply { stream_id, fin, headers }
        }),
        (STREAM_ID, any::<bool>(), headers()).prop_map(|(stream_id, fin, headers)| {
            ControlFrame::Headers { stream_id, fin, headers }
        }),
        (STREAM_ID, any::<u32>()).prop_map(|(stream_id, status)| ControlFrame::RstStream {
            stream_id,
            status: ResetStatus(status)
        }),
        (any::<bool>(), vec((any::<u8>(), 0..1_u32 << 24, any::<u32>()), 0..6)).prop_map(
            |(clear, settings)| ControlFrame::Settings {
                clear,
                settings: settings
                    .into_iter()
                    .map(|(flags, id, value)| Setting { flags, id, value })
                    .collect(),
            }
        ),
        any::<u32>().prop_map(|id| ControlFrame::Ping { id }),
        (0..=0x7fff_ffff_u32, any::<u32>()).prop_map(|(last_good_stream_id, status)| {
            ControlFrame::GoAway { last_good_stream_id, status }
        }),
        (0..=0x7fff_ffff_u32, 0..=0x7fff_ffff_u32)
            .prop_map(|(stream_id, delta)| ControlFrame::WindowUpdate { stream_id, delta }),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        control().prop_map(Frame::Control),
        (STREAM_ID, any::<bool>(), vec(any::<u8>(), 0..300))
            .prop_map(|(stream_id, fin, data)| Frame::Data { stream_id, fin, data }),
    ]
}

fn encode(frames: &[Frame]) -> BytesMut {
    let mut encoder = Encoder::new().unwrap();
    let mut wire = BytesMut::new();
    for frame in frames {
        match frame {
            Frame::Control(frame) => encoder.control(frame, &mut wire).unwrap(),
            Frame::Data { stream_id, fin, data } => {
                Encoder::data(*stream_id, *fin, data, &mut wire).unwrap();
            }
        }
    }
    wire
}

/// Decodes chunks and joins those of data frames. `lengths` are the lengths of the data frames,
/// because chunks of consecutive frames cannot be distinguished.
fn decode(chunks: impl Iterator<Item = Vec<u8>>, mut lengths: Vec<usize>) -> Vec<Frame> {
    lengths.reverse();
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    let mut partial: Option<Vec<u8>> = None;
    for chunk in chunks {
        let mut rest = chunk.as_slice();
        while let Some(decoded) = decoder.next(&mut rest).unwrap() {
            match decoded {
                Decoded::Control(frame) => {
                    assert!(partial.is_none(), "a control frame inside of a data frame");
                    frames.push(Frame::Control(frame));
                }
                Decoded::Data { stream_id, data, fin } => {
                    let mut whole = partial.take().unwrap_or_default();
                    whole.extend_from_slice(data);
                    if lengths.last() == Some(&whole.len()) {
                        lengths.pop();
                        frames.push(Frame::Data { stream_id, fin, data: whole });
                    } else {
                        assert!(!fin, "fin is set on the last chunk");
                        partial = Some(whole);
                    }
                }
                _ => panic!("unknown"),
            }
        }
        assert!(rest.is_empty(), "a decoder that needs more input has consumed everything");
    }
    frames
}

proptest! {
    #[test]
    fn frames_round_trip_with_any_chunking(
        frames in vec(frame(), 0..12),
        cuts in vec(1..200_usize, 1..40),
    ) {
        let wire = encode(&frames);
        let lengths = frames.iter().filter_map(|frame| match frame {
            Frame::Data { data, .. } => Some(data.len()),
            Frame::Control(_) => None,
        }).collect();
        let mut rest = &wire[..];
        let mut cuts = cuts.into_iter().cycle();
        let chunks = std::iter::from_fn(|| {
            let (chunk, tail) = rest.split_at(cuts.next()?.min(rest.len()));
            rest = tail;
            (!chunk.is_empty()).then(|| chunk.to_vec())
        });
        prop_assert_eq!(decode(chunks, lengths), frames);
    }

    #[test]
    fn header_blocks_round_trip(blocks in vec(headers(), 1..10)) {
        let (mut compressor, mut decompressor) = (Compressor::new().unwrap(), Decompressor::new());
        for headers in blocks {
            let compressed = compressor.compress(&headers.to_block().unwrap()).unwrap();
            let block = decompressor.decompress(&compressed).unwrap();
            prop_assert_eq!(Headers::from_block(&block).unwrap(), headers);
        }
    }

    #[test]
    fn compression_round_trips_any_bytes(blocks in vec(vec(any::<u8>(), 0..6000), 1..6)) {
        let (mut compressor, mut decompressor) = (Compressor::new().unwrap(), Decompressor::new());
        for block in blocks {
            let compressed = compressor.compress(&block).unwrap();
            prop_assert_eq!(decompressor.decompress(&compressed).unwrap(), block);
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..2000), chunk in 1..300_usize) {
        fuzzing::frames(&bytes, chunk);
        fuzzing::header_block(&bytes);
        fuzzing::outcome(&bytes);
    }

    /// Damage at one place reaches deeper parser states than random bytes.
    #[test]
    fn damaged_frames_do_not_panic(
        frames in vec(frame(), 1..8),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        chunk in 1..300_usize,
    ) {
        let mut wire = encode(&frames).to_vec();
        let at = at.index(wire.len());
        wire[at] = byte;
        fuzzing::frames(&wire, chunk);
    }
}

#[test]
fn dictionary_matches_draft() {
    assert_eq!(dictionary().len(), 1423);
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in dictionary() {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    assert_eq!(b << 16 | a, DICTIONARY_ADLER32);
}

/// Recorded from the streaming server of containerd 1.6 (Go's zlib): three SYN_REPLY frames.
#[test]
fn frames_of_containerd_are_decoded() {
    let wire = hex(GO_REPLIES);
    let mut decoder = Decoder::new();
    let mut rest = wire.as_slice();
    let mut ids = Vec::new();
    while let Some(decoded) = decoder.next(&mut rest).unwrap() {
        let Decoded::Control(ControlFrame::SynReply { stream_id, fin: false, headers }) = decoded
        else {
            panic!("{decoded:?}");
        };
        assert!(headers.is_empty());
        ids.push(stream_id);
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 3, 5]);
}

/// Two equal blocks compressed by C zlib: the second refers to the first.
#[test]
fn blocks_of_c_zlib_are_decompressed() {
    let mut decompressor = Decompressor::new();
    for block in C_BLOCKS {
        let headers = Headers::from_block(&decompressor.decompress(&hex(block)).unwrap()).unwrap();
        let all: Vec<_> = headers.iter().collect();
        let expected: [(&str, &[u8]); 4] =
            [("streamtype", b"stdout"), ("x", b"a"), ("x", b"b"), ("content-type", b"text/plain")];
        assert_eq!(all, expected);
    }
}

#[test]
fn frames_are_encoded_as_in_draft() {
    let mut encoder = Encoder::new().unwrap();
    let mut written = |frame| {
        let mut wire = BytesMut::new();
        encoder.control(&frame, &mut wire).unwrap();
        wire.to_vec()
    };
    assert_eq!(written(ControlFrame::Ping { id: 1 }), hex("8003000600000004 00000001"));
    assert_eq!(
        written(ControlFrame::RstStream { stream_id: 5, status: ResetStatus::CANCEL }),
        hex("8003000300000008 00000005 00000005")
    );
    assert_eq!(
        written(ControlFrame::GoAway { last_good_stream_id: 7, status: 2 }),
        hex("8003000700000008 00000007 00000002")
    );
    assert_eq!(
        written(ControlFrame::Settings {
            clear: true,
            settings: vec![Setting { flags: 1, id: 7, value: 65536 }]
        }),
        hex("800300040100000c 00000001 01000007 00010000")
    );
    let mut wire = BytesMut::new();
    Encoder::data(3, true, b"ab", &mut wire).unwrap();
    assert_eq!(wire.to_vec(), hex("0000000301000002 6162"));
}

#[test]
fn malformed_frame_returns_error() {
    let cases = [
        ("8002000100000000", CodecError::Version(2)),
        ("0000000000000000", CodecError::StreamId(0)),
        ("8003000300000008 00000000 00000001", CodecError::StreamId(0)),
        ("8003000300000007 00000001 000000", CodecError::Malformed(3)),
        ("8003000300000009 00000001 00000001 00", CodecError::Malformed(3)),
        ("8003000600000000", CodecError::Malformed(6)),
        ("8003000700000004 00000001", CodecError::Malformed(7)),
        ("8003000900000004 00000001", CodecError::Malformed(9)),
        ("8003000400000004 ffffffff", CodecError::Malformed(4)),
        ("8003000100000004 00000001", CodecError::Malformed(1)),
        ("8003000200000008 00000001 deadbeef", CodecError::Decompression),
        ("8003000800010001", CodecError::TooLarge(MAX_CONTROL_PAYLOAD + 1)),
    ];
    for (wire, expected) in cases {
        let wire = hex(wire);
        assert_eq!(Decoder::new().next(&mut wire.as_slice()), Err(expected), "{wire:x?}");
    }
}

#[test]
fn unknown_control_frame_is_skipped() {
    // CREDENTIAL, type 10, with a payload in two chunks; then a ping.
    let wire = hex("8003000a00000005 0102030405 8003000600000004 00000002");
    let mut decoder = Decoder::new();
    assert_eq!(decoder.next(&mut &wire[..10]), Ok(None));
    let ping = Decoded::Control(ControlFrame::Ping { id: 2 });
    assert_eq!(decoder.next(&mut &wire[10..]), Ok(Some(ping)));
}

#[test]
fn decompression_bomb_returns_too_large() {
    let mut compressor = Compressor::new().unwrap();
    let bomb = compressor.compress(&vec![0; 1 << 20]).unwrap();
    assert!(bomb.len() < 8 * 1024);
    let error = Decompressor::new().decompress(&bomb).unwrap_err();
    assert!(matches!(error, CodecError::TooLarge(size) if size < 80 * 1024), "{error:?}");
}

#[test]
fn invalid_headers_return_error() {
    let mut headers = Headers::new();
    assert_eq!(headers.append("", "x"), Err(CodecError::Headers));
    assert_eq!(headers.append("a b", "x"), Err(CodecError::Headers));
    assert_eq!(headers.append("a", Bytes::from_static(b"x\0y")), Err(CodecError::Headers));
    headers.append("streamType", "stdin").unwrap();
    assert_eq!(headers.iter().next(), Some(("streamtype", b"stdin".as_slice())));
    assert_eq!(headers.get("STREAMTYPE"), Some(b"stdin".as_slice()));
    headers.append("big", vec![b'x'; 70_000]).unwrap();
    assert!(matches!(headers.to_block(), Err(CodecError::TooLarge(_))));

    let twice = hex("00000002 00000001 61 00000000 00000001 61 00000000");
    let shouting = hex("00000001 00000001 41 00000001 42");
    let leftover = hex("00000000 00");
    let lying = hex("00000001 7fffffff 61");
    for block in [twice, leftover, lying, Vec::new()] {
        assert_eq!(Headers::from_block(&block), Err(CodecError::Headers), "{block:x?}");
    }
    assert_eq!(Headers::from_block(&shouting).unwrap().get("a"), Some(b"B".as_slice()));
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

const GO_REPLIES: &str = "80030002000000140000000178f9e3c6a7c26260606000000000ffff800300020000000c0000000302610000\
    0000ffff800300020000000c00000005026100000000ffff";
const C_BLOCKS: [&str; 2] = [
    "78f9e3c6a7c202253a703a2b294a4dcc851625c0149b920f2e88192bc0e52443129602870be15200000000ff\
    ff",
    "a28e2900000000ffff",
];
