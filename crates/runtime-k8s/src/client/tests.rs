use super::*;

use std::convert::Infallible;

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;

/// Returns a client of a fake server: a function from the method and the URI to the status and the
/// body.
pub(crate) fn of(server: impl Fn(&Method, &str) -> (u16, &'static str) + Send + 'static) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (status, body) = server(request.method(), &request.uri().to_string());
        let mut response = Response::new(Body::from(body.as_bytes().to_vec()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    Client::new(Clients::single(kube::Client::new(service, "x")), "x")
}

/// Returns a client of a fake server whose function is asynchronous.
pub(crate) fn slow<F>(server: impl Fn(&Method, &str) -> F + Send + 'static) -> Client
where
    F: Future<Output = (u16, Answer)> + Send + 'static,
{
    let service = tower::service_fn(move |request: Request<Body>| {
        let response = server(request.method(), &request.uri().to_string());
        async move {
            let (status, body) = response.await;
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    Client::new(Clients::single(kube::Client::new(service, "x")), "x")
}

/// The body of a response.
pub(crate) type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// Returns a complete body.
pub(crate) fn whole(text: impl Into<Bytes>) -> Answer {
    http_body_util::Full::new(text.into()).boxed_unsync()
}

/// Returns a body with these lines that does not end.
pub(crate) fn endless(lines: Vec<String>) -> Answer {
    let lines = futures_util::stream::iter(lines).chain(futures_util::stream::pending());
    let frames = lines.map(|line| Ok(http_body::Frame::data(line.into())));
    http_body_util::StreamBody::new(frames).boxed_unsync()
}

#[tokio::test]
async fn metrics_are_available_with_right() {
    const FORBIDDEN: &str = r#"{"kind": "Status", "code": 403, "reason": "Forbidden"}"#;
    for (discovery, list, want) in [
        ((404, ""), (403, FORBIDDEN), Ok(false)),
        ((503, ""), (403, FORBIDDEN), Ok(false)),
        ((200, "{}"), (403, FORBIDDEN), Err(ErrorKind::PermissionDenied)),
        ((200, "{}"), (503, ""), Ok(false)),
        ((200, "{}"), (200, "{}"), Ok(true)),
    ] {
        let client = of(move |_, uri| if uri.contains("pods") { list } else { discovery });
        let has = client.has_metrics("a=b").await.map_err(|error| error.kind());
        assert_eq!(has, want, "{discovery:?} {list:?}");
    }
}
