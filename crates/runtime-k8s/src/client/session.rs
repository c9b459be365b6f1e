//! Sessions with a pod.

pub(crate) mod keepalive;
mod websocket;

use http::{HeaderMap, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use runtime_core::{Error, ErrorKind, Result};
use runtime_support::session::Transport;
use spdy_client::Config;
use spdy_client::remote_command::{self, Options, Streams};

use super::timeout::SESSION_TIMEOUT;
use super::{ApiRequest, Client};
use keepalive::Keepalive;

/// Protocol of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionProtocol {
    /// WebSocket, version 5 of the protocol: the older ones cannot close stdin.
    WebSocket,
    /// SPDY, which can close stdin in every version.
    Spdy,
}

impl Client {
    /// Opens a session with a pod: `kind` is `exec` or `attach`.
    ///
    /// Only the response of a server shows its protocol, so the first session of a connection
    /// requests a WebSocket, and SPDY if that is refused.
    pub(crate) async fn session(
        &self,
        pod: &str,
        kind: &str,
        query: &[(&str, &str)],
        streams: Streams,
    ) -> Result<Transport> {
        let opened = self.open_session(pod, kind, query, streams);
        self.with_timeout(SESSION_TIMEOUT, opened).await
    }

    async fn open_session(
        &self,
        pod: &str,
        kind: &str,
        query: &[(&str, &str)],
        streams: Streams,
    ) -> Result<Transport> {
        let mut call = ApiRequest::get(format!("{}/{pod}/{kind}", self.pods()));
        let flags = [
            ("stdin", streams.stdin),
            ("stdout", streams.stdout),
            ("stderr", streams.stderr),
            ("tty", streams.tty),
        ];
        for (name, value) in flags.map(|(name, flag)| (name, if flag { "true" } else { "false" })) {
            call = call.query(name, value);
        }
        for (name, value) in query {
            call = call.query(name, value);
        }
        let known = self.protocol.get().copied();
        if known != Some(SessionProtocol::Spdy) {
            let (request, key) = websocket::request(&call.uri())?;
            let response = self.send(request).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                websocket::check(response.headers(), &key)?;
                let _ = self.protocol.set(SessionProtocol::WebSocket);
                return Ok(websocket::transport(
                    upgraded(response).await?,
                    streams,
                    self.keepalive,
                )
                .await);
            }
            if known.is_some() {
                return Err(self.refusal(response).await);
            }
        }
        let uri = call
            .uri()
            .parse()
            .map_err(|source| Error::internal("the request is malformed").with_source(source))?;
        let request = remote_command::upgrade_request(uri, HeaderMap::new());
        let response = self.send(request.map(|()| Body::empty())).await?;
        match remote_command::check_upgrade(response.status(), response.headers()) {
            Ok(()) => {}
            Err(remote_command::Error::Refused { .. }) => return Err(self.refusal(response).await),
            Err(source) => {
                return Err(Error::internal(
                    "the server has not switched to the requested protocol",
                )
                .with_source(source));
            }
        }
        let _ = self.protocol.set(SessionProtocol::Spdy);
        let Keepalive { interval, limit } = self.keepalive;
        let config = Config::default().keep_alive(interval).silence_limit(limit);
        let options = Options::new(streams).connection(config);
        let opened = remote_command::start(upgraded(response).await?, &options).await;
        opened.map(Transport::from).map_err(|source| {
            Error::new(ErrorKind::Unavailable)
                .with_message("the session was cut off before it was open")
                .with_source(source)
        })
    }
}

/// Returns the upgraded connection of a response.
async fn upgraded(response: Response<Body>) -> Result<TokioIo<Upgraded>> {
    let upgraded = hyper::upgrade::on(response).await.map_err(|source| {
        Error::new(ErrorKind::Unavailable)
            .with_message("the connection was lost when its protocol changed")
            .with_source(source)
    })?;
    Ok(TokioIo::new(upgraded))
}
