//! How connections to the API server are opened.

use std::future::poll_fn;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use kube::client::{ClientBuilder, ConfigExt as _};
use runtime_core::Result;
use tower::{ServiceBuilder, service_fn};
use tower_service::Service;

use crate::error;
use crate::pool::{Generation, Pool};

/// After how long a silent connection is asked for a sign of life, how often, and how many times
/// without an answer: whoever waits on one whose server has vanished without a word hears of it
/// after a minute. A session has no other way to know.
const SILENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Opens TCP connections that notice when the other end has vanished.
pub(crate) fn tcp(connect_timeout: Option<Duration>) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(connect_timeout);
    tcp.set_keepalive(Some(SILENCE));
    tcp.set_keepalive_interval(Some(INTERVAL));
    tcp.set_keepalive_retries(Some(ATTEMPTS));
    tcp
}

/// A client for everything: kube's own, over such connections. The way over a proxy is kube's.
pub(crate) fn client(config: kube::Config, generation: Generation) -> Result<kube::Client> {
    if config.proxy_url.is_some() {
        return kube::Client::try_from(config).map_err(error::from_client);
    }
    let connector = config
        .rustls_https_connector_with_connector(tcp(config.connect_timeout))
        .map_err(error::from_client)?;
    // As in kube, the time is that of the TLS handshake too.
    let connector = in_time(connector, config.connect_timeout);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(error::from_client)?)
        .layer(config.extra_headers_layer().map_err(error::from_client)?)
        .map_err(BoxError::from)
        .service(Pool::new(connector, generation));
    Ok(ClientBuilder::new(service, &config.default_namespace).build())
}

/// Opens connections in so much time, or not at all.
fn in_time<C>(
    connector: C,
    limit: Option<Duration>,
) -> impl Service<
    Uri,
    Response = C::Response,
    Error = BoxError,
    Future = BoxFuture<'static, std::result::Result<C::Response, BoxError>>,
> + Clone
+ Send
+ Sync
+ 'static
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Send,
    C::Future: Send,
    C::Error: Into<BoxError>,
{
    service_fn(move |uri| {
        let mut connector = connector.clone();
        let open = async move {
            poll_fn(|cx| connector.poll_ready(cx)).await.map_err(Into::into)?;
            connector.call(uri).await.map_err(Into::into)
        };
        let opened: BoxFuture<'static, _> = match limit {
            Some(limit) => Box::pin(async move { tokio::time::timeout(limit, open).await? }),
            None => Box::pin(open),
        };
        opened
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::{Ipv4Addr, SocketAddr};

    use http::Request;
    use kube::client::Body;
    use runtime_core::Error;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn ask(scheme: &str, address: SocketAddr) -> std::result::Result<u16, Error> {
        let mut config = kube::Config::new(format!("{scheme}://{address}").parse().unwrap());
        config.connect_timeout = Some(Duration::from_millis(200));
        let request = Request::get("/version").body(Body::empty()).unwrap();
        let answer = client(config, Generation::default())?
            .send(request)
            .await
            .map_err(error::from_client)?;
        Ok(answer.status().as_u16())
    }

    #[tokio::test]
    async fn a_connection_that_is_opened_is_asked_for_signs_of_life() {
        let (_listener, address) = listener().await;
        let uri = format!("http://{address}").parse().unwrap();
        let tcp = tcp(None).call(uri).await.unwrap().into_inner();
        let socket = socket2::SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), SILENCE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), ATTEMPTS);
    }

    #[tokio::test]
    async fn an_answer_comes_and_a_request_that_never_left_is_known() {
        let (server, address) = listener().await;
        let served = tokio::spawn(async move {
            let (mut peer, _) = server.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = peer.read(&mut head).await.unwrap();
            peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            // The next is lost on its way.
            let _ = peer.read(&mut head).await;
        });
        assert_eq!(ask("http", address).await.unwrap(), 204);
        served.await.unwrap();
        // Nobody listens any more.
        let refused = ask("http", address).await.unwrap_err();
        assert!(error::was_not_sent(&refused), "{refused:?}");
        assert!(refused.is_retryable());

        let (server, address) = listener().await;
        let served = tokio::spawn(async move { drop(server.accept().await.unwrap()) });
        let lost = ask("http", address).await.unwrap_err();
        assert!(!error::was_not_sent(&lost), "{lost:?}");
        served.await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_not_waited_for() {
        let (server, address) = listener().await;
        let silent = tokio::spawn(async move { server.accept().await });
        let error = ask("https", address).await.unwrap_err();
        assert!(error::was_not_sent(&error), "{error:?}");
        assert!(error.is_retryable());
        drop(silent.await);
    }
}
