//! Upgrade from HTTP/1.1 to SPDY.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Error, Options, Session, start};

/// Requested version of the remote command protocol.
pub const PROTOCOL: &str = "v4.channel.k8s.io";

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY: HeaderValue = HeaderValue::from_static("SPDY/3.1");

/// Maximum number of bytes kept of a refusal.
const MAX_MESSAGE: usize = 8 * 1024;

/// Opens a session over `io`, a new connection to the HTTP/1.1 server of `uri`. Only the path, the
/// query and, for the `Host` header, the authority of `uri` are used. `headers`, for example a
/// bearer token, are added to the request.
///
/// Returns when the server has accepted every stream. A task performs the I/O after that; it ends
/// when the session has ended or all of its parts are dropped.
///
/// # Errors
/// [`Error::Refused`] with the response body if the server does not upgrade, [`Error::Negotiation`]
/// if it upgrades to another protocol, [`Error::Http`] and [`Error::Spdy`] if the connection fails.
///
/// # Panics
/// If called outside of a tokio runtime.
pub async fn open<T>(
    io: T,
    uri: &Uri,
    headers: HeaderMap,
    options: &Options,
) -> Result<Session, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let upgraded = upgrade(io, uri, headers).await?;
    start(TokioIo::new(upgraded), options).await
}

/// Returns the request for an upgrade to SPDY, without a `Host` header.
#[must_use]
pub fn upgrade_request(uri: Uri, headers: HeaderMap) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    // Some proxies refuse a POST request without a content length.
    request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    request.headers_mut().insert(UPGRADE, SPDY);
    request.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    request
}

/// Checks that the response to [`upgrade_request`] is the requested upgrade.
///
/// # Errors
/// [`Error::Refused`], with an empty message, for a status other than 101; [`Error::Negotiation`]
/// for another protocol.
pub fn check_upgrade(status: StatusCode, headers: &HeaderMap) -> Result<(), Error> {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::Refused { status, message: String::new() });
    }
    let value = |name| {
        let value: Option<&HeaderValue> = headers.get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (upgrade, subprotocol) = (value(UPGRADE), value(STREAM_PROTOCOL));
    let spdy = upgrade.as_deref().is_some_and(|name| name.eq_ignore_ascii_case("SPDY/3.1"));
    if spdy && subprotocol.as_deref() == Some(PROTOCOL) {
        Ok(())
    } else {
        Err(Error::Negotiation { upgrade, subprotocol })
    }
}

async fn upgrade<T>(io: T, uri: &Uri, headers: HeaderMap) -> Result<Upgraded, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(http_error)?;
    let exchange = async {
        let target = uri.path_and_query().map_or("/", |path| path.as_str());
        let target = target.parse::<Uri>().map_err(http_error)?;
        let mut request = upgrade_request(target, headers).map(|()| Empty::<Bytes>::new());
        if let Some(authority) = uri.authority() {
            let host = HeaderValue::from_str(authority.as_str()).map_err(http_error)?;
            request.headers_mut().insert(HOST, host);
        }
        let response = sender.send_request(request).await.map_err(http_error)?;
        if let Err(error) = check_upgrade(response.status(), response.headers()) {
            return Err(match error {
                Error::Refused { status, .. } => {
                    Error::Refused { status, message: message(response.into_body()).await }
                }
                error => error,
            });
        }
        hyper::upgrade::on(response).await.map_err(http_error)
    };
    // The exchange proceeds only while the connection is polled, and the connection must outlive
    // it, because an upgrade ends the connection.
    let mut connection = pin!(connection.with_upgrades());
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        upgraded = &mut exchange => upgraded,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(http_error(error)),
        },
    }
}

/// Returns the start of a refusal's body, which may be incomplete.
async fn message(body: impl Body<Data = Bytes>) -> String {
    let mut body = pin!(body);
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(mut data) = frame.into_data() {
            let room = (MAX_MESSAGE - text.len()).min(data.remaining());
            text.extend_from_slice(&data.split_to(room));
        }
        if text.len() == MAX_MESSAGE {
            break;
        }
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}

fn http_error(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Http(Arc::new(error))
}
