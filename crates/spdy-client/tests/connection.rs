//! Connections to a scripted peer over an in-memory transport.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod peer;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use peer::{GOAWAY, HEADERS, PING, Peer, ReceivedFrame, SETTINGS, SYN_STREAM, WINDOW_UPDATE};
use proptest::prelude::*;
use spdy_client::{Config, Connection, Driver, Error, Headers, ResetStatus, Stream};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

/// Maximum time of an operation that must complete.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Returns a connection with its driver in a task, and the server side.
fn connect(config: Config) -> (Connection, Peer, tokio::task::JoinHandle<Result<(), Error>>) {
    let (here, there) = duplex(4096);
    let (connection, driver) = Connection::new(here, config).unwrap();
    (connection, Peer::new(there), tokio::spawn(driver))
}

fn headers(kind: &str) -> Headers {
    let mut headers = Headers::new();
    headers.append("streamType", kind.to_owned()).unwrap();
    headers
}

async fn opened(connection: &Connection, peer: &mut Peer) -> Stream {
    let mut stream = connection.open_stream(headers("data"), false).unwrap();
    let (id, _) = peer.accept().await;
    assert_eq!(id, stream.id());
    stream.reply().await.unwrap();
    stream
}

/// Yields until the runtime has no task that is ready.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn stream_is_opened_used_and_finished() {
    let (connection, mut peer, _driver) = connect(Config::default());
    let mut first = connection.open_stream(headers("error"), true).unwrap();
    let mut second = connection.open_stream(headers("stdin"), false).unwrap();
    let expected = |kind: &str| vec![("streamtype".to_owned(), kind.to_owned())];
    let seen = peer.next().await.unwrap();
    assert_eq!(seen, ReceivedFrame::Syn { id: 1, fin: true, headers: expected("error") });
    let seen = peer.next().await.unwrap();
    assert_eq!(seen, ReceivedFrame::Syn { id: 3, fin: false, headers: expected("stdin") });

    peer.reply(3, &[("answer", "yes")]).await;
    peer.reply(1, &[]).await;
    assert_eq!(second.reply().await.unwrap().get("answer"), Some(b"yes".as_slice()));
    assert!(first.reply().await.unwrap().is_empty());

    second.write_all(b"hello").await.unwrap();
    let data = ReceivedFrame::Data { id: 3, fin: false, data: b"hello".to_vec() };
    assert_eq!(peer.next().await, Some(data));
    second.shutdown().await.unwrap();
    let fin = ReceivedFrame::Data { id: 3, fin: true, data: Vec::new() };
    assert_eq!(peer.next().await, Some(fin));
    let error = second.write(b"more").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert!(matches!(first.into_split().1.send(b"x").await, Err(Error::Finished)));

    // The other direction is still open.
    peer.data(3, false, b"wor").await;
    peer.data(3, true, b"ld").await;
    let mut text = String::new();
    second.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "world");
}

#[tokio::test]
async fn slow_peer_applies_backpressure_without_loss() {
    let (connection, mut peer, _driver) = connect(Config::default().send_buffer(64 * 1024));
    let (_read, mut write) = opened(&connection, &mut peer).await.into_split();
    let payload: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let (sent, written) = (payload.clone(), Arc::new(AtomicUsize::new(0)));
    let writer = tokio::spawn({
        let written = Arc::clone(&written);
        async move {
            let mut rest = sent.as_slice();
            while !rest.is_empty() {
                let length = write.write(rest).await.unwrap();
                written.fetch_add(length, Ordering::SeqCst);
                rest = &rest[length..];
            }
            write.finish().await.unwrap();
        }
    });
    settle().await;
    let waiting = written.load(Ordering::SeqCst);
    assert!((32 * 1024..=64 * 1024 + 4096).contains(&waiting), "{waiting}");
    let mut got = Vec::new();
    loop {
        match peer.next().await.unwrap() {
            ReceivedFrame::Data { id: 1, fin, data } => {
                assert!(data.len() <= 32 * 1024);
                got.extend(data);
                if fin {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    writer.await.unwrap();
    assert!(got == payload);
}

#[tokio::test]
async fn full_stream_blocks_connection_and_dropped_stream_does_not() {
    let (connection, mut peer, _driver) = connect(Config::default().receive_buffer(8192));
    let (slow, _keep) = opened(&connection, &mut peer).await.into_split();
    let (mut other, _keep) = opened(&connection, &mut peer).await.into_split();

    let flood = tokio::spawn(async move {
        for _ in 0..1000 {
            peer.data(1, false, &[7; 1024]).await;
        }
        peer.data(3, true, b"last").await;
        peer
    });
    let chunk = timeout(Duration::from_millis(100), other.chunk()).await;
    assert!(chunk.is_err(), "data after a full stream has to wait: {chunk:?}");
    assert!(!flood.is_finished(), "the peer has to wait as well");
    drop(slow);
    let chunk = timeout(TIMEOUT, other.chunk()).await.unwrap().unwrap();
    assert_eq!(chunk.as_deref(), Some(b"last".as_slice()));
    flood.await.unwrap();
}

#[tokio::test]
async fn receive_buffer_of_slow_reader_is_bounded() {
    let (connection, mut peer, _driver) = connect(Config::default().receive_buffer(8192));
    let (mut slow, _keep) = opened(&connection, &mut peer).await.into_split();
    let flood = tokio::spawn(async move {
        for _ in 0..1000 {
            peer.data(1, false, &[7; 1024]).await;
        }
        peer.data(1, true, &[]).await;
        peer
    });
    let mut total = 0;
    let mut largest = 0;
    settle().await;
    while let Some(chunk) = timeout(TIMEOUT, slow.chunk()).await.unwrap().unwrap() {
        largest = largest.max(chunk.len());
        total += chunk.len();
    }
    assert_eq!(total, 1000 * 1024);
    assert!(largest <= 8192 + 64 * 1024, "{largest}");
    assert!(largest >= 8192, "the buffer was used: {largest}");
    flood.await.unwrap();
}

#[tokio::test]
async fn reset_is_returned_after_received_data() {
    let (connection, mut peer, _driver) = connect(Config::default());
    let mut stream = opened(&connection, &mut peer).await;
    peer.data(1, false, b"before").await;
    peer.reset(1, 6).await;
    let mut text = Vec::new();
    let error = stream.read_to_end(&mut text).await.unwrap_err();
    assert_eq!(
        (text.as_slice(), error.kind()),
        (b"before".as_slice(), io::ErrorKind::ConnectionReset)
    );
    let (_, mut write) = stream.into_split();
    let error = write.send(b"x").await.unwrap_err();
    assert!(matches!(error, Error::Reset(ResetStatus::INTERNAL_ERROR)), "{error:?}");
}

#[tokio::test]
async fn flush_of_sent_bytes_succeeds_after_end() {
    let (connection, mut peer, driver) = connect(Config::default());
    let mut stream = opened(&connection, &mut peer).await;
    stream.write_all(b"whole").await.unwrap();
    let seen = timeout(TIMEOUT, peer.next()).await.unwrap().unwrap();
    assert_eq!(seen, ReceivedFrame::Data { id: stream.id(), fin: false, data: b"whole".to_vec() });
    drop(peer);
    timeout(TIMEOUT, driver).await.unwrap().unwrap().ok();
    stream.flush().await.unwrap();
    // Later bytes fail.
    stream.write_all(b"more").await.unwrap_err();
}

#[tokio::test]
async fn refused_stream_returns_reset() {
    let (connection, mut peer, _driver) = connect(Config::default());
    let mut stream = connection.open_stream(headers("x"), false).unwrap();
    peer.next().await.unwrap();
    peer.reset(1, 3).await;
    let error = stream.reply().await.unwrap_err();
    assert!(matches!(error, Error::Reset(ResetStatus::REFUSED_STREAM)), "{error:?}");
}

#[tokio::test]
async fn dropped_halves_reset_stream() {
    let (connection, mut peer, _driver) = connect(Config::default());
    let (read, write) = opened(&connection, &mut peer).await.into_split();
    drop(write);
    let fin = ReceivedFrame::Data { id: 1, fin: true, data: Vec::new() };
    assert_eq!(peer.next().await, Some(fin));
    drop(read);
    assert_eq!(peer.next().await, Some(ReceivedFrame::Reset { id: 1, status: 5 }));
    // Data in flight is discarded.
    peer.data(1, false, b"late").await;

    let stream = opened(&connection, &mut peer).await;
    stream.reset(ResetStatus::INTERNAL_ERROR).unwrap();
    assert_eq!(peer.next().await, Some(ReceivedFrame::Reset { id: 3, status: 6 }));

    // A stream that both sides have finished needs no reset.
    let mut stream = opened(&connection, &mut peer).await;
    peer.data(5, true, &[]).await;
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    drop(stream);
    let fin = ReceivedFrame::Data { id: 5, fin: true, data: Vec::new() };
    assert_eq!(peer.next().await, Some(fin));
    let (id, ()) = (connection.open_stream(headers("next"), true).unwrap().id(), ());
    assert!(matches!(peer.next().await, Some(ReceivedFrame::Syn { id: 7, .. })) && id == 7);
}

#[tokio::test]
async fn dropping_last_handle_ends_driver() {
    let (connection, mut peer, driver) = connect(Config::default());
    let (read, write) = opened(&connection, &mut peer).await.into_split();
    drop(connection.clone());
    drop(connection);
    drop(read);
    settle().await;
    assert!(!driver.is_finished(), "the write half keeps the connection");
    drop(write);
    timeout(TIMEOUT, driver).await.unwrap().unwrap().unwrap();
    while peer.next().await.is_some() {}
}

#[tokio::test]
async fn close_sends_goaway() {
    let (connection, mut peer, driver) = connect(Config::default());
    let mut stream = opened(&connection, &mut peer).await;
    stream.write_all(b"bye").await.unwrap();
    connection.close().await.unwrap();
    connection.close().await.unwrap();
    let data = ReceivedFrame::Data { id: 1, fin: false, data: b"bye".to_vec() };
    assert_eq!(peer.next().await, Some(data));
    assert_eq!(peer.next().await, Some(ReceivedFrame::GoAway { last: 0, status: 0 }));
    assert_eq!(peer.next().await, None);
    assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert!(matches!(connection.open_stream(headers("x"), true), Err(Error::Closed)));
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn goaway_of_peer_refuses_new_streams() {
    let (connection, mut peer, driver) = connect(Config::default());
    let mut first = opened(&connection, &mut peer).await;
    let mut second = connection.open_stream(headers("late"), false).unwrap();
    peer.next().await.unwrap();
    peer.pair(GOAWAY, 1, 2).await;
    assert!(matches!(second.reply().await, Err(Error::GoneAway(2))));
    assert!(matches!(connection.open_stream(headers("x"), true), Err(Error::GoneAway(2))));
    peer.data(1, false, b"still").await;
    drop(peer);
    let mut text = Vec::new();
    let error = first.read_to_end(&mut text).await.unwrap_err();
    assert_eq!((text.as_slice(), error.kind()), (b"still".as_slice(), io::ErrorKind::NotConnected));
    assert!(matches!(connection.ping().await, Err(Error::Closed)));
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn pings_are_sent_and_answered() {
    let (connection, mut peer, _driver) = connect(Config::default());
    let ping = tokio::spawn({
        let connection = connection.clone();
        async move { connection.ping().await }
    });
    assert_eq!(peer.next().await, Some(ReceivedFrame::Ping(1)));
    peer.control(PING, 0, &8_u32.to_be_bytes()).await;
    assert_eq!(peer.next().await, Some(ReceivedFrame::Ping(8)));
    settle().await;
    assert!(!ping.is_finished());
    peer.control(PING, 0, &1_u32.to_be_bytes()).await;
    assert!(ping.await.unwrap().unwrap() < TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn idle_connection_sends_pings() {
    let start = tokio::time::Instant::now();
    let (_connection, mut peer, _driver) =
        connect(Config::default().keep_alive(Duration::from_secs(30)));
    for id in [1, 3, 5] {
        assert_eq!(peer.next().await, Some(ReceivedFrame::Ping(id)));
    }
    assert_eq!(start.elapsed().as_secs(), 90);
}

#[tokio::test(start_paused = true)]
async fn busy_connection_sends_no_pings() {
    let (_connection, mut peer, _driver) = connect(keep_alive_config());
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        peer.control(PING, 0, &2_u32.to_be_bytes()).await;
        assert_eq!(
            peer.next().await,
            Some(ReceivedFrame::Ping(2)),
            "the response, and no ping before it"
        );
    }
    assert_eq!(peer.next().await, Some(ReceivedFrame::Ping(1)), "the connection is idle now");
}

fn keep_alive_config() -> Config {
    Config::default().keep_alive(Duration::from_secs(5)).silence_limit(Duration::from_secs(60))
}

/// Responds to `count` pings.
async fn answer(peer: &mut Peer, count: usize) {
    let mut answered = 0;
    while answered < count {
        if let Some(ReceivedFrame::Ping(id)) = peer.next().await {
            peer.control(PING, 0, &id.to_be_bytes()).await;
            answered += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn peer_without_ping_responses_is_silent() {
    let (connection, mut peer, driver) = connect(keep_alive_config());
    let mut stream = opened(&connection, &mut peer).await;
    stream.write_all(b"little").await.unwrap();
    answer(&mut peer, 20).await;
    assert!(!driver.is_finished(), "a peer that answers pings is alive");
    let silent = tokio::time::Instant::now();
    let error = stream.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!((55..=65).contains(&silent.elapsed().as_secs()), "{:?}", silent.elapsed());
    assert!(matches!(driver.await.unwrap(), Err(Error::Silent)));
    assert!(matches!(connection.ping().await, Err(Error::Silent)));
}

#[tokio::test(start_paused = true)]
async fn peer_waiting_for_its_process_is_not_silent() {
    let (connection, mut peer, driver) = connect(keep_alive_config());
    let mut stream = opened(&connection, &mut peer).await;
    stream.write_all(&[b'x'; 16 << 10]).await.unwrap();
    // No response: the process does not read its input.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!driver.is_finished());
    // The process has read its input, and all pings are answered. Silence counts again.
    while let Ok(Some(frame)) = timeout(Duration::from_secs(1), peer.next()).await {
        if let ReceivedFrame::Ping(id) = frame {
            peer.control(PING, 0, &id.to_be_bytes()).await;
        }
    }
    answer(&mut peer, 2).await;
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(matches!(driver.await.unwrap(), Err(Error::Silent)));
}

#[tokio::test(start_paused = true)]
async fn unread_output_is_not_silence() {
    let (connection, mut peer, driver) = connect(keep_alive_config().receive_buffer(1));
    let mut stream = opened(&connection, &mut peer).await;
    peer.data(1, false, b"output").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!driver.is_finished(), "nothing was read meanwhile");
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 6);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!driver.is_finished(), "the time counts from the resumption of reading");
    let error = stream.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    driver.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn redundant_frames_are_ignored() {
    let (connection, mut peer, _driver) = connect(Config::default());
    let mut stream = opened(&connection, &mut peer).await;
    peer.pair(WINDOW_UPDATE, 1, 65536).await;
    peer.control(SETTINGS, 0, &[[0, 0, 0, 1], [0, 0, 0, 7], [0, 1, 0, 0]].concat()).await;
    peer.control(10, 0, &[1, 2, 3]).await;
    let mut payload = 1_u32.to_be_bytes().to_vec();
    payload.extend(peer.block(&[("more", "headers")]));
    peer.control(HEADERS, 0, &payload).await;
    // A second reply, and one for a stream that does not exist.
    peer.reply(1, &[("second", "reply")]).await;
    peer.reply(99, &[]).await;
    peer.data(1, true, b"there").await;
    peer.data(1, false, b"after the end").await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "there");
    assert!(stream.reply().await.unwrap().is_empty());
}

#[tokio::test]
async fn streams_opened_by_server_are_refused() {
    let (_connection, mut peer, _driver) = connect(Config::default());
    let mut payload = [2_u32.to_be_bytes(), [0; 4]].concat();
    payload.extend([0, 0]);
    payload.extend(peer.block(&[("push", "this")]));
    peer.control(SYN_STREAM, 0, &payload).await;
    assert_eq!(peer.next().await, Some(ReceivedFrame::Reset { id: 2, status: 3 }));
    peer.data(4, false, b"x").await;
    assert_eq!(peer.next().await, Some(ReceivedFrame::Reset { id: 4, status: 2 }));
}

#[tokio::test]
async fn peer_that_never_reads_applies_backpressure() {
    let (_connection, peer, _driver) = connect(Config::default());
    let ping = [[0x80, 3, 0, 6], [0, 0, 0, 4], [0, 0, 0, 2]].concat();
    let pings = ping.repeat(20_000);
    let (mut read, mut write) = tokio::io::split(peer.into_inner());
    let length = pings.len();
    let taken = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn({
        let taken = Arc::clone(&taken);
        async move {
            let mut rest = pings.as_slice();
            while !rest.is_empty() {
                let length = write.write(rest).await.unwrap();
                taken.fetch_add(length, Ordering::SeqCst);
                rest = &rest[length..];
            }
        }
    });
    settle().await;
    // One queue of responses, one read, and the transport's buffers in both directions.
    let stopped = taken.load(Ordering::SeqCst);
    assert!(stopped <= 2 * 64 * 1024 + 3 * 4096, "{stopped} of {length}");
    // Reading resumes when the responses are read.
    let mut answers = vec![0; length];
    timeout(TIMEOUT, read.read_exact(&mut answers)).await.unwrap().unwrap();
    assert!(answers == ping.repeat(20_000));
    writer.await.unwrap();
}

#[tokio::test]
async fn invalid_bytes_end_connection_with_error() {
    let (connection, mut peer, driver) = connect(Config::default());
    let mut stream = opened(&connection, &mut peer).await;
    peer.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n\x80\x09\x00\x01\0\0\0\0").await;
    // Text is parsed as the header of a large data frame of an unknown stream, which is refused;
    // the connection ends with the transport.
    assert!(matches!(peer.next().await, Some(ReceivedFrame::Reset { status: 2, .. })));
    drop(peer);
    let error = stream.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    driver.await.unwrap().unwrap();

    let (connection, mut peer, driver) = connect(Config::default());
    let mut stream = opened(&connection, &mut peer).await;
    peer.raw(&[0x80, 9, 0, 1, 0, 0, 0, 0]).await;
    let error = stream.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(matches!(connection.ping().await, Err(Error::Protocol(_))));
    assert!(matches!(driver.await.unwrap(), Err(Error::Protocol(_))));
}

#[tokio::test]
async fn dropped_driver_wakes_all_waiters() {
    let (connection, mut peer, driver) = connect(Config::default());
    let mut stream = opened(&connection, &mut peer).await;
    let ping = tokio::spawn({
        let connection = connection.clone();
        async move { connection.ping().await }
    });
    peer.next().await.unwrap();
    driver.abort();
    assert!(matches!(timeout(TIMEOUT, ping).await.unwrap().unwrap(), Err(Error::Closed)));
    assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(stream.write(b"x").await.unwrap_err().kind(), io::ErrorKind::NotConnected);
    timeout(TIMEOUT, connection.close()).await.unwrap().unwrap();
}

/// Stops accepting bytes when the flag is set.
struct BlockedWriter(Arc<AtomicBool>, tokio::io::WriteHalf<DuplexStream>);

impl AsyncWrite for BlockedWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.0.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.1).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_shutdown(context)
    }
}

#[tokio::test]
async fn data_before_failed_write_is_read() {
    let (here, there) = duplex(4096);
    let (read, write) = tokio::io::split(here);
    let deaf = Arc::new(AtomicBool::new(false));
    let io = tokio::io::join(read, BlockedWriter(Arc::clone(&deaf), write));
    let (connection, driver): (_, Driver<_>) = Connection::new(io, Config::default()).unwrap();
    let driver = tokio::spawn(driver);
    let mut peer = Peer::new(there);
    let (mut read, mut write) = opened(&connection, &mut peer).await.into_split();
    deaf.store(true, Ordering::SeqCst);
    let error = write.send(b"too late").await.unwrap_err();
    assert!(matches!(error, Error::Io(_)), "{error:?}");
    peer.data(1, true, b"the outcome").await;
    assert_eq!(read.chunk().await.unwrap().as_deref(), Some(b"the outcome".as_slice()));
    assert_eq!(read.chunk().await.unwrap(), None);
    // The peer does not read, so no `GOAWAY` is sent.
    timeout(TIMEOUT, connection.close()).await.unwrap().unwrap();
    timeout(TIMEOUT, driver).await.unwrap().unwrap().unwrap();
    assert_eq!(peer.next().await, None);
}

#[tokio::test]
async fn zero_receive_buffer_still_receives() {
    let (connection, mut peer, _driver) =
        connect(Config::default().receive_buffer(0).send_buffer(0));
    let mut stream = opened(&connection, &mut peer).await;
    peer.data(1, true, b"in").await;
    let mut text = String::new();
    timeout(TIMEOUT, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "in");
    timeout(TIMEOUT, stream.write_all(b"out")).await.unwrap().unwrap();
    let data = ReceivedFrame::Data { id: 1, fin: false, data: b"out".to_vec() };
    assert_eq!(peer.next().await, Some(data));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any bytes from a server, the connection ends with the transport, and every waiter
    /// receives a result.
    #[test]
    fn arbitrary_server_bytes_end_connection_cleanly(bytes in prop::collection::vec(any::<u8>(), 0..600), control: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, mut peer, driver) = connect(Config::default());
            let mut stream = connection.open_stream(headers("x"), false).unwrap();
            if control {
                peer.raw(&[0x80, 3, 0, bytes.first().map_or(1, |byte| byte % 10)]).await;
            }
            peer.raw(&bytes).await;
            drop(peer);
            let mut sink = Vec::new();
            let _ = timeout(TIMEOUT, stream.read_to_end(&mut sink)).await.expect("the reader ends");
            let _ = timeout(TIMEOUT, driver).await.expect("the driver ends").unwrap();
        });
    }
}
