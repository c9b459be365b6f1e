//! Requests, long responses and sessions through proxies on loopback.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use runtime_core::{ErrorKind, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::fake::{FakeProxy, Server, Speaks, certificate, certificate_pem};
use super::*;
use crate::client::environment::Environment;
use crate::client::kubeconfig::Settings;
use crate::client::transport::pool::Generation;
use crate::client::transport::{dial, http2};
use crate::error;

async fn settings(config: serde_json::Value, environment: &[(&str, &str)]) -> Result<Settings> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config.to_string()).unwrap();
    let environment = Environment::of(environment.iter().copied());
    Settings::load(Some(file.path()), None, &environment, Duration::from_secs(20)).await
}

fn kubeconfig(cluster: serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    })
}

async fn get(client: &kube::Client) -> Result<Version> {
    let request = Request::get("/version").body(Body::empty()).unwrap();
    let response = client.send(request).await.map_err(error::from_client)?;
    assert_eq!(response.status(), StatusCode::OK);
    let version = response.version();
    response.into_body().collect().await.unwrap();
    Ok(version)
}

async fn echo(client: &kube::Client) {
    let request = Request::get("/api/v1/namespaces/n/pods/p/exec")
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Body::empty())
        .unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    io.write_all(b"hello").await.unwrap();
    let mut bytes = [0; 5];
    io.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hello");
}

#[tokio::test]
async fn every_request_uses_every_kind_of_proxy() {
    let own = certificate();
    let authority =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate_pem(&own));
    let server = Server::start(Some(&own), None, |_| 200).await;
    let own = Arc::new(own);
    for (speaks, scheme, user) in [
        (Speaks::Http, "http", None),
        (Speaks::Http, "HTTP", Some("us%65r:p%40ss%3A")),
        (Speaks::Https(Arc::clone(&own)), "https", Some("user:p%40ss%3a")),
        (Speaks::Socks5, "socks5", None),
        (Speaks::Socks5, "socks5", Some("user:p%40ss%3A")),
    ] {
        let decoded = user.map(|_| "user:p@ss:");
        let proxy = FakeProxy::start(speaks, server.address, decoded).await;
        let user = user.map_or(String::new(), |user| format!("{user}@"));
        let url = format!("{scheme}://{user}localhost:{}/ignored?x", proxy.address.port());
        // The proxy resolves the name, which this host cannot.
        let settings = settings(
            kubeconfig(serde_json::json!({
                "server": "https://api.example.test:6443",
                "certificate-authority-data": authority,
                "proxy-url": url,
            })),
            // It holds for what the kubeconfig does not say.
            &[("NO_PROXY", "*"), ("HTTPS_PROXY", "http://127.0.0.1:1")],
        )
        .await
        .unwrap();
        let all = dial::client(&settings, Generation::default()).unwrap();
        assert_eq!(get(&all).await.unwrap(), Version::HTTP_11, "{url}");
        echo(&all).await;
        let long = http2::client(&settings, Generation::default()).unwrap().unwrap();
        assert_eq!(get(&long).await.unwrap(), Version::HTTP_2, "{url}");
        let expected = match scheme {
            "socks5" => "SOCKS api.example.test:6443",
            _ => "CONNECT api.example.test:6443",
        };
        let seen = proxy.seen();
        assert!(!seen.is_empty() && seen.iter().all(|target| target == expected), "{seen:?}");
    }
    for seen in server.seen() {
        assert_eq!(seen.header("proxy-authorization"), None);
        assert_eq!(seen.header("authorization"), Some("Bearer t"));
        assert!(seen.version == Version::HTTP_11 || seen.uri.ends_with("/version"), "{seen:?}");
    }
}

#[tokio::test]
async fn http_proxy_receives_requests_for_server_without_tls() {
    let server = Server::start(None, None, |_| 200).await;
    let proxy = FakeProxy::start(Speaks::Http, server.address, Some("u:p")).await;
    let url = format!("http://u:p@{}", proxy.address);
    let config = kubeconfig(serde_json::json!({"server": "api.example.test:8080"}));
    let settings = settings(config, &[("http_proxy", &url), ("HTTPS_PROXY", "x:1")]).await.unwrap();
    let all = dial::client(&settings, Generation::default()).unwrap();
    get(&all).await.unwrap();
    echo(&all).await;
    assert!(http2::client(&settings, Generation::default()).unwrap().is_none());
    assert_eq!(
        proxy.seen(),
        ["GET http://api.example.test:8080/version", "CONNECT api.example.test:8080"]
    );
}

#[tokio::test]
async fn environment_proxy_is_used_unless_excluded() {
    let own = certificate();
    let server = Server::start(Some(&own), None, |_| 200).await;
    let proxy = FakeProxy::start(Speaks::Http, server.address, None).await;
    let port = server.address.port();
    let url = format!("127.0.0.1:{}", proxy.address.port());
    for (name, no_proxy, host, is_used) in [
        ("HTTPS_PROXY", "", "api.example.test", true),
        ("https_proxy", "", "api.example.test", true),
        ("HTTP_PROXY", "", "api.example.test", false),
        ("HTTPS_PROXY", "example.test", "api.example.test", false),
        ("HTTPS_PROXY", "", "localhost", false),
        ("HTTPS_PROXY", "", "127.0.0.1", false),
    ] {
        let config = kubeconfig(serde_json::json!({
            "server": format!("https://{host}:{port}"), "insecure-skip-tls-verify": true,
        }));
        let variables = [(name, url.as_str()), ("no_proxy", no_proxy)];
        let settings = settings(config, &variables).await.unwrap();
        assert_eq!(settings.proxy.is_some(), is_used, "{name} {no_proxy} {host}");
        if is_used || host != "api.example.test" {
            get(&dial::client(&settings, Generation::default()).unwrap()).await.unwrap();
        }
    }
    assert_eq!(proxy.seen().len(), 2);
}

#[tokio::test]
async fn proxy_refusal_returns_reason_without_password() {
    let server = Server::start(None, None, |_| 200).await;
    let http = FakeProxy::start(Speaks::Http, server.address, Some("u:p")).await;
    let socks = FakeProxy::start(Speaks::Socks5, server.address, Some("u:p")).await;
    let (http, socks) = (http.address, socks.address);
    for (url, host, kind, reason) in [
        (format!("http://{http}"), "api.example.test", ErrorKind::Unauthenticated, "407"),
        (format!("http://u:secret@{http}"), "api.example.test", ErrorKind::Unauthenticated, "407"),
        (
            format!("http://u:p@{http}"),
            "forbidden.example.test",
            ErrorKind::PermissionDenied,
            "403",
        ),
        (format!("socks5://{socks}"), "api.example.test", ErrorKind::Unauthenticated, "auth"),
        (
            format!("socks5://u:secret@{socks}"),
            "api.example.test",
            ErrorKind::Unauthenticated,
            "auth",
        ),
        ("http://127.0.0.1:1".into(), "api.example.test", ErrorKind::Unavailable, "refused"),
    ] {
        let config = kubeconfig(serde_json::json!({
            "server": format!("https://{host}"), "insecure-skip-tls-verify": true, "proxy-url": url,
        }));
        let settings = settings(config, &[]).await.unwrap();
        for client in [
            dial::client(&settings, Generation::default()).unwrap(),
            http2::client(&settings, Generation::default()).unwrap().unwrap(),
        ] {
            let error = get(&client).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{url} {error:?}");
            let text = format!("{error} {error:?}").to_lowercase();
            assert!(text.contains(reason) && !text.contains("secret"), "{text}");
        }
    }
}

#[test]
fn proxy_urls_are_parsed_like_client_go() {
    for (url, expected) in [
        ("http://p", Some("p:80")),
        ("https://p", Some("p:443")),
        ("socks5://p", Some("p:1080")),
        ("HTTP://p:8080/path?query", Some("p:8080")),
        ("http://[::1]:8080", Some("[::1]:8080")),
        ("http://u:p@p:1", Some("p:1")),
        ("http://u@p:1", Some("p:1")),
        ("http://p:", Some("p:80")),
        ("p:8080", None),
        ("socks5h://p", None),
        ("ftp://p", None),
        ("http://", None),
        ("http://:8080", None),
        ("http://p:70000", None),
        ("http://a b", None),
    ] {
        let proxy = Proxy::of_kubeconfig(url);
        assert_eq!(proxy.ok().map(|proxy| proxy.to_string()).as_deref(), expected, "{url}");
    }
    let secure = "https://api.example.test".parse().unwrap();
    for (value, expected) in [
        ("p:8080", Some("Proxy(Http p 8080)")),
        ("p", Some("Proxy(Http p 80)")),
        ("u:secret@p:8080", Some("Proxy(Http p 8080)")),
        ("https://p", Some("Proxy(Https p 443)")),
        ("socks5h://p", Some("Proxy(Socks5 p 1080)")),
        ("a b", None),
    ] {
        let environment = Environment::of([("HTTPS_PROXY", value)]);
        let proxy = Proxy::of_environment(&secure, &environment);
        let shown = proxy.as_ref().ok().map(|proxy| format!("{:?}", proxy.as_ref().unwrap()));
        assert_eq!(shown.as_deref(), expected, "{value}");
    }
    let plain = "http://api.example.test".parse().unwrap();
    let cgi = Environment::of([("HTTP_PROXY", "p"), ("REQUEST_METHOD", "GET")]);
    assert_eq!(Proxy::of_environment(&plain, &cgi).unwrap_err().field(), Some("HTTP_PROXY"));
}
