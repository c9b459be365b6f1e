//! Remote commands against a scripted server: the upgrade, the streams, and every kind of exit.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod peer;

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Uri, header};
use peer::{GOAWAY, Peer, ReceivedFrame};
use spdy_client::remote_command::{
    Error, Failure, Options, Outcome, Output, Session, Streams, open, start,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_secs(10);

const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";

/// Returns a session with these streams, and its server side. The stream ids are 1 (error), then 3,
/// 5, ... in the order stdin, stdout, stderr, resize.
async fn session(streams: Streams) -> (Session, Peer) {
    let (here, there) = duplex(4096);
    let mut peer = Peer::new(there);
    let server = async {
        let wanted = 1 + [streams.stdin, streams.stdout, streams.stderr, streams.tty]
            .into_iter()
            .filter(|wanted| *wanted)
            .count();
        let mut opened = Vec::new();
        // All streams are opened before the first reply.
        for _ in 0..wanted {
            match peer.next().await {
                Some(ReceivedFrame::Syn { id, fin: false, headers }) => opened.push((id, headers)),
                other => panic!("{other:?}"),
            }
        }
        for (id, _) in &opened {
            peer.reply(*id, &[]).await;
        }
        opened
    };
    let options = Options::new(streams);
    let (session, opened) = tokio::join!(start(here, &options), server);
    let kinds: Vec<_> = opened.iter().map(|(_, headers)| headers[0].1.as_str()).collect();
    let expected = [
        ("error", true),
        ("stdin", streams.stdin),
        ("stdout", streams.stdout),
        ("stderr", streams.stderr),
        ("resize", streams.tty),
    ];
    let expected: Vec<_> =
        expected.into_iter().filter(|(_, wanted)| *wanted).map(|(kind, _)| kind).collect();
    assert_eq!(kinds, expected);
    assert!(opened.iter().all(|(_, headers)| headers.len() == 1 && headers[0].0 == "streamtype"));
    (session.unwrap(), peer)
}

async fn all(output: &mut Option<Output>) -> Result<Vec<u8>, Error> {
    let output = output.as_mut().expect("the session has the output");
    let mut bytes = Vec::new();
    while let Some(chunk) = timeout(TIMEOUT, output.chunk()).await.unwrap()? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn read_head(io: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn upgrade_request_has_required_headers() {
    let (here, mut there) = duplex(4096);
    let uri: Uri = "http://engine:10010/exec/token?x=1".parse().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer t"));
    let server = async {
        let head = read_head(&mut there).await;
        // The first frames of a server may share a packet with its response.
        there.write_all(ACCEPTED.as_bytes()).await.unwrap();
        let mut peer = Peer::new(there);
        peer.accept().await;
        peer.data(1, false, br#"{"metadata":{},"status":"Success"}"#).await;
        (head, peer)
    };
    let options = Options::new(Streams::none());
    let (session, (head, _peer)) = tokio::join!(open(here, &uri, headers, &options), server);
    assert!(head.starts_with("POST /exec/token?x=1 HTTP/1.1\r\n"), "{head}");
    let head = head.to_ascii_lowercase();
    for line in [
        "host: engine:10010",
        "connection: upgrade",
        "upgrade: spdy/3.1",
        "x-stream-protocol-version: v4.channel.k8s.io",
        "authorization: bearer t",
        "content-length: 0",
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
    }
    assert_eq!(session.unwrap().exit.wait().await.unwrap(), Outcome::Success);
}

#[tokio::test]
async fn refusal_has_message_of_server() {
    let cases = [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\ngone\n", 404, "gone"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403, ""),
        // An incomplete body.
        ("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 99\r\n\r\nhalf", 500, "half"),
        ("HTTP/1.1 200 OK\r\n\r\nhello", 200, "hello"),
    ];
    for (answer, code, words) in cases {
        let (here, mut there) = duplex(4096);
        let server = async {
            read_head(&mut there).await;
            there.write_all(answer.as_bytes()).await.unwrap();
            drop(there);
        };
        let uri = Uri::from_static("http://engine/exec");
        let options = Options::default();
        let open = timeout(TIMEOUT, open(here, &uri, HeaderMap::new(), &options));
        let (session, ()) = tokio::join!(open, server);
        match session.unwrap().unwrap_err() {
            Error::Refused { status, message } => {
                assert_eq!((status.as_u16(), message.as_str()), (code, words));
            }
            other => panic!("{other:?} for {answer}"),
        }
    }
}

#[tokio::test]
async fn long_refusal_is_truncated() {
    let (here, mut there) = duplex(4096);
    let server = async {
        read_head(&mut there).await;
        let _ = there.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 1000000\r\n\r\n").await;
        // The client does not read to the end.
        while there.write_all(&[b'x'; 1024]).await.is_ok() {}
    };
    let uri = Uri::from_static("http://engine/exec");
    let options = Options::default();
    let open = async move {
        let error = open(here, &uri, HeaderMap::new(), &options).await.unwrap_err();
        assert!(matches!(error, Error::Refused { message, .. } if message.len() == 8 * 1024));
    };
    timeout(TIMEOUT, async { tokio::join!(open, server) }).await.unwrap();
}

#[tokio::test]
async fn upgrade_to_other_protocol_returns_negotiation_error() {
    let cases = [
        ACCEPTED.replace("v4", "v3"),
        ACCEPTED.replace("SPDY/3.1", "websocket"),
        ACCEPTED.replace("X-Stream-Protocol-Version: v4.channel.k8s.io\r\n", ""),
    ];
    for answer in cases {
        let (here, mut there) = duplex(4096);
        let server = async {
            read_head(&mut there).await;
            there.write_all(answer.as_bytes()).await.unwrap();
            there
        };
        let uri = Uri::from_static("http://engine/exec");
        let options = Options::default();
        let (session, _io) = tokio::join!(open(here, &uri, HeaderMap::new(), &options), server);
        let error = session.unwrap_err();
        assert!(matches!(error, Error::Negotiation { .. }), "{error:?} for {answer}");
    }
}

#[tokio::test]
async fn closed_connection_returns_http_error() {
    let (here, there) = duplex(4096);
    drop(there);
    let uri = Uri::from_static("http://engine/exec");
    let error = open(here, &uri, HeaderMap::new(), &Options::default()).await.unwrap_err();
    assert!(matches!(error, Error::Http(_)), "{error:?}");
}

#[tokio::test]
async fn no_data_is_sent_before_reply() {
    let (here, there) = duplex(4096);
    let mut peer = Peer::new(there);
    let options = Options::new(Streams::none().stdin(true));
    let mut opening = tokio::spawn(async move { start(here, &options).await });
    for id in [1, 3] {
        assert!(
            matches!(peer.next().await, Some(ReceivedFrame::Syn { id: seen, .. }) if seen == id)
        );
    }
    peer.reply(1, &[]).await;
    assert!(timeout(Duration::from_millis(50), &mut opening).await.is_err());
    peer.reply(3, &[]).await;
    opening.await.unwrap().unwrap();
}

#[tokio::test]
async fn refused_stream_returns_error() {
    let (here, there) = duplex(4096);
    let mut peer = Peer::new(there);
    let options = Options::new(Streams::outputs());
    let server = async {
        peer.accept().await;
        peer.next().await.unwrap();
        peer.reset(3, 3).await;
    };
    let (session, ()) = tokio::join!(start(here, &options), server);
    let error = session.unwrap_err();
    assert!(matches!(error, Error::Spdy(spdy_client::Error::Reset(_))), "{error:?}");
}

/// The order of messages observed with containerd 1.6.
#[tokio::test]
async fn command_with_stdin_stdout_and_stderr() {
    let (mut session, mut peer) = session(Streams::outputs().stdin(true)).await;
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"hello").await.unwrap();
    let data = ReceivedFrame::Data { id: 3, fin: false, data: b"hello".to_vec() };
    assert_eq!(peer.next().await, Some(data));
    stdin.finish().await.unwrap();
    assert_eq!(peer.next().await, Some(ReceivedFrame::Data { id: 3, fin: true, data: Vec::new() }));

    peer.data(5, false, b"out").await;
    peer.data(7, false, b"err").await;
    peer.data(7, true, &[]).await;
    peer.data(5, true, &[]).await;
    assert_eq!(all(&mut session.stdout).await.unwrap(), b"out");
    assert_eq!(all(&mut session.stderr).await.unwrap(), b"err");
    let waiting = tokio::spawn({
        let exit = session.exit.clone();
        async move { exit.wait().await }
    });
    peer.data(1, false, NON_ZERO.as_bytes()).await;
    peer.reset(1, 5).await;
    peer.reset(3, 5).await;
    peer.pair(GOAWAY, 7, 0).await;
    drop(peer);
    assert_eq!(waiting.await.unwrap().unwrap(), Outcome::ExitCode(42));
    assert_eq!(session.exit.wait().await.unwrap(), Outcome::ExitCode(42));
}

const NON_ZERO: &str = r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit code 42","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;

#[tokio::test]
async fn outputs_reset_after_outcome_end() {
    let (mut session, mut peer) = session(Streams::outputs()).await;
    peer.data(3, false, b"some").await;
    peer.data(
        1,
        false,
        br#"{"status":"Failure","reason":"InternalError","message":"no such file","code":500}"#,
    )
    .await;
    for id in [1, 3, 5] {
        peer.reset(id, 5).await;
    }
    drop(peer);
    assert_eq!(all(&mut session.stdout).await.unwrap(), b"some");
    assert_eq!(all(&mut session.stderr).await.unwrap(), b"");
    let Outcome::Failure(Failure { reason, message, code, .. }) =
        session.exit.wait().await.unwrap()
    else {
        panic!("no failure");
    };
    assert_eq!(
        (reason.as_str(), message.as_str(), code),
        ("InternalError", "no such file", Some(500))
    );
}

#[tokio::test]
async fn interrupted_session_returns_no_outcome() {
    // The transport ends.
    let (mut session, mut peer) = self::session(Streams::outputs()).await;
    peer.data(3, false, b"some").await;
    drop(peer);
    let error = all(&mut session.stdout).await.unwrap_err();
    assert!(matches!(error, Error::Spdy(spdy_client::Error::Closed)), "{error:?}");
    for _ in 0..2 {
        let error = session.exit.wait().await.unwrap_err();
        assert!(matches!(error, Error::NoOutcome(Some(spdy_client::Error::Closed))), "{error:?}");
    }

    // Within the outcome.
    let (session, mut peer) = self::session(Streams::none()).await;
    peer.data(1, false, br#"{"status":"Succ"#).await;
    drop(peer);
    let error = session.exit.wait().await.unwrap_err();
    assert!(matches!(error, Error::NoOutcome(Some(_))), "{error:?}");

    // Streams are reset without an outcome.
    let (mut session, mut peer) = self::session(Streams::outputs()).await;
    peer.reset(3, 5).await;
    peer.data(1, true, &[]).await;
    let error = all(&mut session.stdout).await.unwrap_err();
    assert!(matches!(error, Error::Spdy(spdy_client::Error::Reset(_))), "{error:?}");
    assert!(matches!(session.exit.wait().await, Err(Error::NoOutcome(None))));

    // Invalid outcome.
    let (session, mut peer) = self::session(Streams::none()).await;
    peer.data(1, true, b"v3 would say it so").await;
    assert!(matches!(session.exit.wait().await, Err(Error::MalformedOutcome)));
}

#[tokio::test]
async fn oversized_outcome_returns_malformed() {
    let (session, mut peer) = session(Streams::none()).await;
    let flood = tokio::spawn(async move {
        for _ in 0..2000 {
            peer.data(1, false, &[b' '; 1024]).await;
        }
    });
    let outcome = timeout(TIMEOUT, session.exit.wait()).await.unwrap();
    assert!(matches!(outcome, Err(Error::MalformedOutcome)), "{outcome:?}");
    drop(session);
    timeout(TIMEOUT, flood).await.unwrap().unwrap();
}

#[tokio::test]
async fn dropped_wait_keeps_outcome() {
    let (session, mut peer) = session(Streams::none()).await;
    let (first, second) = NON_ZERO.split_at(50);
    peer.data(1, false, first.as_bytes()).await;
    assert!(timeout(Duration::from_millis(50), session.exit.wait()).await.is_err());
    peer.data(1, false, second.as_bytes()).await;
    assert_eq!(session.exit.wait().await.unwrap(), Outcome::ExitCode(42));
}

#[tokio::test]
async fn terminal_is_resized() {
    let (session, mut peer) = session(Streams::terminal()).await;
    let resize = session.resize.as_ref().unwrap();
    resize.send(132, 43).await.unwrap();
    match peer.next().await {
        Some(ReceivedFrame::Data { id: 7, fin: false, data }) => {
            let size: serde_json::Value = serde_json::from_slice(&data).unwrap();
            assert_eq!(size, serde_json::json!({"Width": 132, "Height": 43}));
        }
        other => panic!("{other:?}"),
    }
    assert!(session.stderr.is_none() && session.stdin.is_some());
    drop(peer);
    let cut = timeout(TIMEOUT, async { while resize.send(1, 1).await.is_ok() {} }).await;
    assert!(cut.is_ok(), "a terminal that is gone cannot be resized");
}

#[tokio::test]
async fn dropped_output_does_not_block() {
    let (mut session, mut peer) = session(Streams::outputs()).await;
    drop(session.stderr.take());
    for _ in 0..1000 {
        timeout(TIMEOUT, peer.data(5, false, &[b'e'; 1024])).await.unwrap();
    }
    peer.data(3, true, b"out").await;
    assert_eq!(all(&mut session.stdout).await.unwrap(), b"out");
}

#[tokio::test]
async fn dropping_last_part_closes_connection() {
    let (session, mut peer) = session(Streams::terminal()).await;
    let Session { stdin, stdout, stderr, resize, exit, .. } = session;
    drop((stdout, stderr, resize, exit));
    peer.data(3, false, b"?").await;
    // stdin is still open; messages of the other streams are not relevant here.
    let mut stdin = stdin.unwrap();
    stdin.write_all(b"typed").await.unwrap();
    loop {
        match timeout(TIMEOUT, peer.next()).await.unwrap() {
            Some(ReceivedFrame::Data { id: 3, data, .. }) if data == b"typed" => break,
            Some(_) => {}
            None => panic!("the connection was closed"),
        }
    }
    drop(stdin);
    while timeout(TIMEOUT, peer.next()).await.unwrap().is_some() {}
}

#[test]
fn outcome_is_parsed() {
    let read = |status: &str| Outcome::parse(status.as_bytes());
    assert_eq!(read(r#"{"metadata":{},"status":"Success"}"#).unwrap(), Outcome::Success);
    assert_eq!(read(NON_ZERO).unwrap(), Outcome::ExitCode(42));
    let negative = NON_ZERO.replace(r#""message":"42""#, r#""message":"-1""#);
    assert_eq!(read(&negative).unwrap(), Outcome::ExitCode(-1));
    for malformed in [
        "",
        "null",
        "{}",
        r#"{"status":"Perhaps"}"#,
        r#"{"status":"Success""#,
        &NON_ZERO.replace("\"42\"", "\"many\""),
        &NON_ZERO.replace("ExitCode\",\"message", "Other\",\"message"),
    ] {
        let outcome = read(malformed);
        assert!(matches!(outcome, Err(Error::MalformedOutcome)), "{outcome:?} of {malformed}");
    }
}
