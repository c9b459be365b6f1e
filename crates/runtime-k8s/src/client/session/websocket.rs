//! Remote commands over a WebSocket, in version 5 of their protocol.
//!
//! Every message begins with the number of its stream; 255 closes the stream whose number follows.
//! The older versions lack this half close, so that a process that reads its input to the end would
//! not end: they are not supported. The protocol is that of Kubernetes' `remotecommand` package
//! (KEP-4006); API servers have it from 1.30 on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _, stream};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Request};
use kube::client::Body;
use runtime_core::{Error, Result, TerminalSize};
use runtime_support::session::{Chunks, Terminal, Transport};
use spdy_client::remote_command::{self, Outcome, Streams};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, DuplexStream};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::session::keepalive::{Keepalive, PingTracker};

/// The only version that is requested.
const PROTOCOL: &str = "v5.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Capacity of the channel to the reader of a stream, in pieces.
const CHANNEL_CAPACITY: usize = 2;

/// Size of the input buffer and maximum size of a message, in bytes.
const INPUT_BUFFER_BYTES: usize = 32 << 10;

/// Returns the upgrade request and its key.
pub(crate) fn request(uri: &str) -> Result<(Request<Body>, String)> {
    let key = generate_key();
    let request = Request::get(uri)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key)
        .header(SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
        .body(Body::empty())
        .map_err(|source| Error::internal("the request is malformed").with_source(source))?;
    Ok((request, key))
}

/// Checks that a server has upgraded to the requested protocol.
pub(crate) fn check(headers: &HeaderMap, key: &str) -> Result<()> {
    let is = |name, wanted: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.eq_ignore_ascii_case(wanted))
    };
    let accepted = headers
        .get(SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|value| value.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
    if is(UPGRADE, "websocket") && is(SEC_WEBSOCKET_PROTOCOL, PROTOCOL) && accepted {
        Ok(())
    } else {
        Err(Error::internal("the server has not switched to the requested protocol"))
    }
}

/// Returns the streams of a session over an upgraded connection.
///
/// The connection is closed when the session has ended, or all of its parts were dropped.
pub(crate) async fn transport<T>(io: T, streams: Streams, keepalive: Keepalive) -> Transport
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    let (sink, messages) = socket.split();
    let sink = Arc::new(Mutex::new(sink));
    let unwanted = CancellationToken::new();
    let wanted = Arc::new(unwanted.clone().drop_guard());
    let pings = Arc::new(PingTracker::default());

    let (outcome_sender, told) = oneshot::channel();
    let held = Arc::clone(&wanted);
    let mut transport = Transport::new(
        async move {
            let outcome = told.await.unwrap_or(Err(remote_command::Error::NoOutcome(None)));
            drop(held);
            outcome
        }
        .boxed(),
    );
    let mut outputs = [None, None];
    for (number, asked) in [streams.stdout, streams.stderr].into_iter().enumerate() {
        if asked {
            let (sender, chunks) = chunks(Arc::clone(&wanted));
            outputs[number] = Some(sender);
            let slot = match number {
                0 => &mut transport.stdout,
                _ => &mut transport.stderr,
            };
            *slot = Some(chunks);
        }
    }
    if streams.stdin {
        let (ours, theirs) = tokio::io::duplex(INPUT_BUFFER_BYTES);
        transport.stdin = Some(Box::new(Input { pipe: ours, _wanted: Arc::clone(&wanted) }));
        tokio::spawn(send_input(theirs, Arc::clone(&sink), Arc::clone(&pings), unwanted.clone()));
    }
    if streams.tty {
        let sink = Arc::clone(&sink);
        let _wanted = Arc::clone(&wanted);
        transport.terminal = Some(Arc::new(Resize { sink, _wanted }));
    }
    tokio::spawn(send_pings(sink, keepalive.interval, Arc::clone(&pings), unwanted.clone()));
    tokio::spawn(async move {
        let reader = Reader { messages, outputs, outcome: None, keepalive, pings };
        let read = reader.read().map(|outcome| {
            // The receiver may be dropped.
            let _ = outcome_sender.send(outcome);
        });
        unwanted.run_until_cancelled(read).await;
        // Buffered input is discarded.
        unwanted.cancel();
    });
    transport
}

type Sink<T> = Arc<Mutex<SplitSink<WebSocketStream<T>, Message>>>;

fn chunks(wanted: Arc<DropGuard>) -> (mpsc::Sender<io::Result<Bytes>>, Chunks) {
    let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
    let chunks = stream::unfold((receiver, wanted), |(mut receiver, wanted)| async move {
        receiver.recv().await.map(|piece| (piece, (receiver, wanted)))
    });
    (sender, chunks.boxed())
}

/// Reads all messages.
struct Reader<T> {
    messages: SplitStream<WebSocketStream<T>>,
    /// Stdout and stderr, until they have ended.
    outputs: [Option<mpsc::Sender<io::Result<Bytes>>>; 2],
    outcome: Option<std::result::Result<Outcome, remote_command::Error>>,
    keepalive: Keepalive,
    pings: Arc<PingTracker>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Reader<T> {
    async fn read(mut self) -> std::result::Result<Outcome, remote_command::Error> {
        let failure = loop {
            match self.next().await {
                Ok(Some(Message::Binary(message))) => self.take(message).await,
                Ok(Some(Message::Pong(payload))) => self.pings.pong(&payload),
                Ok(Some(Message::Close(_)) | None) => break None,
                Ok(Some(_)) => {}
                Err(error) => break Some(error),
            }
            // The outcome is the last message, and servers may close the connection late.
            if let Some(outcome) = self.outcome.take() {
                return outcome;
            }
        };
        // Outputs without an end were cut off.
        let cut = || match &failure {
            Some(error) => io::Error::from(error.clone()),
            None => io::ErrorKind::UnexpectedEof.into(),
        };
        for output in self.outputs.iter().flatten() {
            let _ = output.send(Err(cut())).await;
        }
        Err(remote_command::Error::NoOutcome(failure))
    }

    /// Returns the next message. A server that is silent for too long is reported as lost.
    async fn next(&mut self) -> std::result::Result<Option<Message>, spdy_client::Error> {
        loop {
            let limit = tokio::time::sleep(self.keepalive.limit);
            tokio::select! {
                biased;
                message = self.messages.next() => {
                    return message.transpose().map_err(|error| io::Error::other(error).into());
                }
                () = limit => {
                    if !self.pings.may_be_busy() {
                        return Err(spdy_client::Error::Silent);
                    }
                }
            }
        }
    }

    async fn take(&mut self, mut message: Bytes) {
        if message.is_empty() {
            return;
        }
        let rest = message.split_off(1);
        match message[0] {
            number @ (STDOUT | STDERR) if !rest.is_empty() => {
                if let Some(output) = &self.outputs[usize::from(number - STDOUT)] {
                    // The output is discarded if its reader was dropped.
                    let _ = output.send(Ok(rest)).await;
                }
            }
            OUTCOME => self.outcome = Some(Outcome::parse(&rest)),
            CLOSE => {
                if let Some(number @ (STDOUT | STDERR)) = rest.first().copied() {
                    self.outputs[usize::from(number - STDOUT)] = None;
                }
            }
            _ => {}
        }
    }
}

/// Sends the input, and its end.
async fn send_input<T: AsyncRead + AsyncWrite + Unpin>(
    mut pipe: DuplexStream,
    sink: Sink<T>,
    pings: Arc<PingTracker>,
    unwanted: CancellationToken,
) {
    let send = async {
        loop {
            let mut message = BytesMut::with_capacity(1 + INPUT_BUFFER_BYTES);
            message.extend_from_slice(&[STDIN]);
            let end = match pipe.read_buf(&mut message).await {
                Ok(0) => true,
                Ok(_) => false,
                Err(_) => return,
            };
            let message = if end { Bytes::from_static(&[CLOSE, STDIN]) } else { message.freeze() };
            let mut sink = sink.lock().await;
            pings.input(message.len());
            // The reader also gets the error of a lost connection.
            if sink.send(Message::Binary(message)).await.is_err() || end {
                return;
            }
        }
    };
    unwanted.run_until_cancelled(send).await;
}

/// Sends a ping after each interval.
async fn send_pings<T: AsyncRead + AsyncWrite + Unpin>(
    sink: Sink<T>,
    interval: Duration,
    pings: Arc<PingTracker>,
    unwanted: CancellationToken,
) {
    let send = async {
        loop {
            tokio::time::sleep(interval).await;
            let mut sink = sink.lock().await;
            let ping = Bytes::copy_from_slice(&pings.ping());
            // The reader also gets the error of a lost connection.
            if sink.send(Message::Ping(ping)).await.is_err() {
                return;
            }
        }
    };
    unwanted.run_until_cancelled(send).await;
}

/// The writer of the input.
struct Input {
    pipe: DuplexStream,
    _wanted: Arc<DropGuard>,
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

struct Resize<T> {
    sink: Sink<T>,
    _wanted: Arc<DropGuard>,
}

#[async_trait]
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Terminal for Resize<T> {
    async fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let json = serde_json::json!({"Width": size.columns, "Height": size.rows}).to_string();
        let mut message = vec![RESIZE];
        message.extend_from_slice(json.as_bytes());
        let sent = self.sink.lock().await.send(Message::Binary(message.into())).await;
        sent.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    type Server = WebSocketStream<DuplexStream>;

    async fn pair(streams: Streams) -> (Transport, Server) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let keepalive = Keepalive::every(Duration::from_secs(5));
        (transport(ours, streams, keepalive).await, server)
    }

    async fn send_message(server: &mut Server, message: &[u8]) {
        server.send(Message::Binary(Bytes::copy_from_slice(message))).await.unwrap();
    }

    async fn receive(server: &mut Server) -> Option<Bytes> {
        match server.next().await? {
            Ok(Message::Binary(message)) => Some(message),
            _ => None,
        }
    }

    #[tokio::test]
    async fn streams_are_separate_and_end() {
        let (transport, mut server) = pair(Streams::outputs().stdin(true)).await;
        let mut stdin = transport.stdin.unwrap();
        stdin.write_all(b"in").await.unwrap();
        assert_eq!(receive(&mut server).await.unwrap(), &b"\0in"[..]);
        stdin.shutdown().await.unwrap();
        assert_eq!(receive(&mut server).await.unwrap(), &[CLOSE, STDIN][..]);
        for message in [&b"\x01out"[..], b"\x02err", b"\x01", b"\x01put", b"\xff\x01", b"\xff\x02"]
        {
            send_message(&mut server, message).await;
        }
        let status = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        send_message(&mut server, &[b"\x03", &status[..]].concat()).await;
        let join = |chunks: Chunks| chunks.try_collect::<Vec<_>>();
        assert_eq!(join(transport.stdout.unwrap()).await.unwrap().concat(), b"output");
        assert_eq!(join(transport.stderr.unwrap()).await.unwrap().concat(), b"err");
        assert_eq!(transport.outcome.await.unwrap(), Outcome::ExitCode(3));
        drop(stdin);
        assert!(receive(&mut server).await.is_none(), "the connection is closed");
    }

    #[tokio::test]
    async fn session_without_outcome_is_lost() {
        let (transport, mut server) = pair(Streams::outputs()).await;
        send_message(&mut server, b"\x01half").await;
        drop(server);
        let mut stdout = transport.stdout.unwrap();
        assert_eq!(stdout.try_next().await.unwrap().unwrap(), "half");
        stdout.try_next().await.unwrap_err();
        let cut = transport.outcome.await.unwrap_err();
        assert!(matches!(cut, remote_command::Error::NoOutcome(_)), "{cut:?}");
    }

    #[tokio::test]
    async fn dropped_session_closes_connection() {
        let (transport, mut server) = pair(Streams::terminal()).await;
        let terminal = transport.terminal.clone().unwrap();
        drop(transport);
        terminal.resize(TerminalSize { rows: 24, columns: 80 }).await.unwrap();
        let resize = receive(&mut server).await.unwrap();
        // Dropping the input has ended it.
        let (resize, end) = match resize[0] {
            RESIZE => (resize, receive(&mut server).await.unwrap()),
            _ => (receive(&mut server).await.unwrap(), resize),
        };
        assert_eq!(end, &[CLOSE, STDIN][..]);
        assert_eq!(resize[0], RESIZE);
        let size: serde_json::Value = serde_json::from_slice(&resize[1..]).unwrap();
        assert_eq!(size, serde_json::json!({"Width": 80, "Height": 24}));
        drop(terminal);
        assert!(receive(&mut server).await.is_none());
    }

    /// Responds to pings, and returns their number in this time.
    async fn answer_pings(server: &mut Server, time: Duration) -> usize {
        let mut pings = 0;
        let read = async {
            while let Some(Ok(message)) = server.next().await {
                // The pong is sent by the next read.
                pings += usize::from(message.is_ping());
            }
        };
        let _ = tokio::time::timeout(time, read).await;
        pings
    }

    #[tokio::test(start_paused = true)]
    async fn silent_session_is_pinged_and_continues() {
        let (transport, mut server) = pair(Streams::outputs()).await;
        assert_eq!(answer_pings(&mut server, Duration::from_secs(303)).await, 60);
        let status = br#"{"status":"Success"}"#;
        send_message(&mut server, &[b"\x03", &status[..]].concat()).await;
        assert_eq!(transport.outcome.await.unwrap(), Outcome::Success);
    }

    #[tokio::test(start_paused = true)]
    async fn session_without_pongs_is_lost() {
        let (transport, mut server) = pair(Streams::outputs().stdin(true)).await;
        let mut stdin = transport.stdin.unwrap();
        stdin.write_all(b"little").await.unwrap();
        assert!(answer_pings(&mut server, Duration::from_secs(120)).await > 20);
        let silent = tokio::time::Instant::now();
        let mut stdout = transport.stdout.unwrap();
        let cut = stdout.try_next().await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::TimedOut);
        let lost = transport.outcome.await.unwrap_err();
        assert!(matches!(lost, remote_command::Error::NoOutcome(Some(_))), "{lost:?}");
        assert!(silent.elapsed() < Duration::from_secs(70), "{:?}", silent.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn session_with_unread_input_is_not_lost() {
        let (transport, mut server) = pair(Streams::outputs().stdin(true)).await;
        let mut stdin = transport.stdin.unwrap();
        stdin.write_all(&[b'x'; 16 << 10]).await.unwrap();
        let mut stdout = transport.stdout.unwrap();
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, stdout.try_next()).await.is_err());
        // After the read, silence counts again.
        answer_pings(&mut server, Duration::from_secs(30)).await;
        tokio::time::timeout(hour, stdout.try_next()).await.unwrap().unwrap_err();
    }

    #[test]
    fn other_protocol_is_refused() {
        let (request, key) = request("/x").unwrap();
        assert_eq!(request.headers()[SEC_WEBSOCKET_PROTOCOL], PROTOCOL);
        let mut response = HeaderMap::new();
        response.insert(UPGRADE, "WebSocket".parse().unwrap());
        response.insert(SEC_WEBSOCKET_PROTOCOL, PROTOCOL.parse().unwrap());
        check(&response, &key).unwrap_err();
        let accept = derive_accept_key(key.as_bytes());
        response.insert(SEC_WEBSOCKET_ACCEPT, accept.parse().unwrap());
        check(&response, &key).unwrap();
        response.insert(SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io".parse().unwrap());
        check(&response, &key).unwrap_err();
    }
}
