//! Client of the engine's streaming server.

use http::{HeaderMap, Uri};
use runtime_core::{Error, ErrorKind, Result};
use runtime_support::session::Transport;
use spdy_client::remote_command::{self, Options, Streams};
use tokio::net::TcpStream;

use crate::error::{from_session, session_cut_off};

/// Opens a session at the URL that the engine returned.
pub(crate) async fn connect(url: &str, streams: Streams) -> Result<Transport> {
    let unclear =
        || Error::internal(format!("the engine returned an invalid session URL: {url:?}"));
    let uri: Uri = url.parse().map_err(|error| unclear().with_source(error))?;
    if uri.scheme_str() != Some("http") {
        return Err(Error::new(ErrorKind::Unsupported)
            .with_message("the engine's streaming server requires TLS, which is not supported"));
    }
    let host = uri.host().ok_or_else(unclear)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await.map_err(|error| {
        Error::new(ErrorKind::Unavailable)
            .with_message(format!("failed to connect to the engine's streaming server at {host}"))
            .with_source(error)
    })?;
    // Typed keys are small packets, which Nagle's algorithm would delay.
    tcp.set_nodelay(true).map_err(session_cut_off)?;
    let opened = remote_command::open(tcp, &uri, HeaderMap::new(), &Options::new(streams)).await;
    opened.map(Transport::from).map_err(from_session)
}
