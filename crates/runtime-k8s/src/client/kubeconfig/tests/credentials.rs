//! The credentials that a server receives for each kind of user.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use runtime_core::{ErrorKind, Result};
use serde_json::json;

use super::super::Settings;
use super::load_at;
use crate::client::proxy::fake::{ReceivedRequest, Server, certificate, certificate_pem, key_pem};
use crate::client::transport::pool::Generation;
use crate::client::transport::{dial, http2};
use crate::error;

/// A directory with a kubeconfig, and with what it names.
struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// Writes a program that adds a line to the file `runs`, and then runs `script`.
    fn plugin(&self, script: &str) {
        let path = self.path().join("plugin");
        let text =
            format!("#!/bin/sh\ncd '{}'\necho run >> runs\n{script}\n", self.path().display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.path().join("runs")).map_or(0, |text| text.lines().count())
    }

    async fn load(&self, server: &Server, user: serde_json::Value) -> Result<Settings> {
        let cluster = json!({
            "server": format!("https://localhost:{}", server.address.port()),
            "insecure-skip-tls-verify": true,
            "extensions": [{
                "name": "client.authentication.k8s.io/exec", "extension": {"audience": "a"},
            }],
        });
        let text = json!({
            "current-context": "c",
            "clusters": [{"name": "k", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        });
        self.write("config", &text.to_string());
        load_at(&self.path().join("config"), &[]).await
    }
}

fn exec(more: serde_json::Value) -> serde_json::Value {
    let mut exec = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "./plugin",
        "interactiveMode": "Never",
    });
    exec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"exec": exec})
}

fn credential(status: serde_json::Value) -> String {
    json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status,
    })
    .to_string()
}

async fn get(client: &kube::Client) -> Result<StatusCode> {
    let request = Request::get("/version").body(Body::empty()).unwrap();
    let response = client.send(request).await.map_err(error::from_client)?;
    let status = response.status();
    response.into_body().collect().await.map_err(error::from_client)?;
    Ok(status)
}

async fn start(response: impl Fn(&ReceivedRequest) -> u16 + Send + Sync + 'static) -> Server {
    Server::start(Some(&certificate()), None, response).await
}

#[tokio::test]
async fn credentials_of_kubeconfig_are_sent() {
    let (directory, server) = (Directory::new(), start(|_| 200).await);
    directory.write("token", "from-file\n\n");
    for (user, expected) in [
        (json!({}), None),
        (json!({"token": " t\n"}), Some("Bearer t".to_owned())),
        (json!({"tokenFile": "token"}), Some("Bearer from-file".to_owned())),
        (json!({"token": "t", "tokenFile": "token"}), Some("Bearer from-file".to_owned())),
        (json!({"token": "t", "tokenFile": "missing"}), Some("Bearer t".to_owned())),
        (
            json!({"username": "u", "password": "p:ä"}),
            Some(format!("Basic {}", STANDARD.encode("u:p:ä"))),
        ),
        (json!({"username": "u"}), Some(format!("Basic {}", STANDARD.encode("u:")))),
        (json!({"password": "p"}), None),
    ] {
        let settings = directory.load(&server, user.clone()).await.unwrap();
        get(&dial::client(&settings, Generation::default()).unwrap()).await.unwrap();
        get(&http2::client(&settings, Generation::default()).unwrap().unwrap()).await.unwrap();
        let seen = server.seen();
        for seen in &seen[seen.len() - 2..] {
            assert_eq!(seen.header("authorization"), expected.as_deref(), "{user}");
        }
    }
    let user = json!({
        "as": "x", "as-uid": "1", "as-groups": ["a", "b"],
        "as-user-extra": {"example.com/K %": ["v", "w"], "none": null},
    });
    let settings = directory.load(&server, user).await.unwrap();
    for client in [
        dial::client(&settings, Generation::default()).unwrap(),
        http2::client(&settings, Generation::default()).unwrap().unwrap(),
    ] {
        get(&client).await.unwrap();
        let seen = server.seen().pop().unwrap();
        assert_eq!(seen.all("impersonate-user"), ["x"]);
        assert_eq!(seen.all("impersonate-uid"), ["1"]);
        assert_eq!(seen.all("impersonate-group"), ["a", "b"]);
        assert_eq!(seen.all("impersonate-extra-example.com%2fk%20%25"), ["v", "w"]);
    }
}

#[tokio::test]
async fn token_file_is_read_again_when_it_is_due_and_when_it_is_refused() {
    let (directory, is_new) = (Directory::new(), Arc::new(AtomicBool::new(false)));
    let wanted = Arc::clone(&is_new);
    let server = start(move |seen| {
        let token = if wanted.load(Ordering::Relaxed) { "Bearer new" } else { "Bearer old" };
        if seen.header("authorization") == Some(token) { 200 } else { 401 }
    })
    .await;
    directory.write("token", "old\n");
    let settings = directory.load(&server, json!({"tokenFile": "token"})).await.unwrap();
    let client = dial::client(&settings, Generation::default()).unwrap();
    assert_eq!(get(&client).await.unwrap(), 200);
    is_new.store(true, Ordering::Relaxed);
    // The file is as before: the refusal is returned, and nothing is sent twice.
    assert_eq!(get(&client).await.unwrap(), 401);
    assert_eq!(server.seen().len(), 2);
    directory.write("token", "new\n");
    assert_eq!(get(&client).await.unwrap(), 200);
    assert_eq!(server.seen().len(), 4);
    // A file that is gone or empty leaves the last token.
    directory.write("token", "");
    settings.credentials.expire();
    assert_eq!(get(&client).await.unwrap(), 200);
    std::fs::remove_file(directory.path().join("token")).unwrap();
    settings.credentials.expire();
    assert_eq!(get(&client).await.unwrap(), 200);
}

#[tokio::test]
async fn exec_plugin_runs_once_for_all_clients_and_again_after_401() {
    let (directory, is_new) = (Directory::new(), Arc::new(AtomicBool::new(false)));
    let wanted = Arc::clone(&is_new);
    let server = start(move |seen| {
        let token = if wanted.load(Ordering::Relaxed) { "Bearer t2" } else { "Bearer t1" };
        if seen.header("authorization") == Some(token) { 200 } else { 401 }
    })
    .await;
    let output = credential(json!({"token": "TOKEN"}));
    directory.plugin(&format!("echo '{output}' | sed s/TOKEN/t$(wc -l < runs)/"));
    let settings = directory.load(&server, exec(json!({}))).await.unwrap();
    assert_eq!(directory.runs(), 1);
    let all = dial::client(&settings, Generation::default()).unwrap();
    let long = http2::client(&settings, Generation::default()).unwrap().unwrap();
    for client in [&all, &long, &all, &long] {
        assert_eq!(get(client).await.unwrap(), 200);
    }
    assert_eq!(directory.runs(), 1);
    is_new.store(true, Ordering::Relaxed);
    // Many requests at once are refused, and the plugin runs once for them.
    let responses = futures_util::future::join_all((0..8).map(|_| get(&all))).await;
    assert!(responses.into_iter().all(|response| response.unwrap() == 200));
    assert_eq!(get(&long).await.unwrap(), 200);
    assert_eq!(directory.runs(), 2);
}

#[tokio::test]
async fn exec_plugin_receives_kubeconfig_settings() {
    let (directory, server) = (Directory::new(), start(|_| 200).await);
    let output = credential(json!({"token": "t"}));
    directory.plugin(&format!(
        "printf '%s' \"$KUBERNETES_EXEC_INFO\" > info\nprintf '%s|' \"$@\" \"$ONE\" > args\n\
         cat > input\necho '{output}'"
    ));
    let user = exec(json!({
        "args": ["a b", ""], "env": [{"name": "ONE", "value": "1"}], "provideClusterInfo": true,
    }));
    directory.load(&server, user).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!(read("args"), "a b||1|");
    assert_eq!(read("input"), "");
    let info: serde_json::Value = serde_json::from_str(&read("info")).unwrap();
    let expected = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "spec": {"interactive": false, "cluster": {
            "server": format!("https://localhost:{}", server.address.port()),
            "insecure-skip-tls-verify": true,
            "config": {"audience": "a"},
        }},
    });
    assert_eq!(info, expected);
}

#[tokio::test]
async fn exec_plugin_runs_again_when_its_credentials_have_expired() {
    let (directory, server) = (Directory::new(), start(|_| 200).await);
    let expired = json!({"token": "t", "expirationTimestamp": "2001-01-01T00:00:00Z"});
    directory.plugin(&format!("echo '{}'", credential(expired)));
    let settings = directory.load(&server, exec(json!({}))).await.unwrap();
    let client = dial::client(&settings, Generation::default()).unwrap();
    assert_eq!(get(&client).await.unwrap(), 200);
    assert_eq!(directory.runs(), 2);
    let later = json!({"token": "t", "expirationTimestamp": "2999-01-01T00:00:00+01:00"});
    directory.plugin(&format!("echo '{}'", credential(later)));
    for _ in 0..3 {
        assert_eq!(get(&client).await.unwrap(), 200);
    }
    assert_eq!(directory.runs(), 3);
}

#[tokio::test]
async fn failed_exec_plugin_returns_error_without_output() {
    let (directory, server) = (Directory::new(), start(|_| 200).await);
    let echo = |text: String| format!("echo '{text}'");
    let of = |status| echo(credential(status));
    for (script, words) in [
        ("echo complaint >&2; exit 3".to_owned(), "complaint"),
        ("kill -9 $$".to_owned(), "signal"),
        (echo("secret".into()), "something else than an ExecCredential"),
        (echo("{}".into()), "its apiVersion is"),
        (of(json!({"token": "secret"})).replace("k8s.io/v1", "k8s.io/v1beta1"), "v1beta1"),
        (of(json!(null)), "no status"),
        (of(json!({})), "neither a token nor a certificate"),
        (of(json!({"token": ""})), "neither a token nor a certificate"),
        (of(json!({"clientKeyData": "secret"})), "without the other"),
        (of(json!({"clientCertificateData": "a", "clientKeyData": "secret"})), "PEM"),
        (of(json!({"token": "secret", "expirationTimestamp": "x"})), "is not a time"),
        (of(json!({"token": "sec\u{7f}ret"})), "is not a header value"),
    ] {
        directory.plugin(&script);
        let error = directory.load(&server, exec(json!({}))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{script} {error:?}");
        assert!(!error.is_retryable());
        let text = format!("{error:?}");
        assert!(text.contains(words) && !text.contains("secret"), "{script} {text}");
    }
    let user = exec(json!({"interactiveMode": "Always"}));
    // A test runner may have a terminal.
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        let error = directory.load(&server, user).await.unwrap_err();
        assert!(format!("{error}").contains("needs a terminal"), "{error}");
    }
}

#[tokio::test]
async fn exec_plugin_does_not_block_executor() {
    let (directory, server) = (Directory::new(), start(|_| 200).await);
    let output = credential(json!({"token": "t"}));
    // It ends when the executor has done something else meanwhile.
    directory.plugin(&format!("while ! test -e done; do sleep 0.05; done; echo '{output}'"));
    let other = async {
        while directory.runs() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        directory.write("done", "");
    };
    let (loaded, ()) = tokio::join!(directory.load(&server, exec(json!({}))), other);
    loaded.unwrap();
}

#[tokio::test]
async fn client_certificates_are_read_from_files_and_plugins() {
    let (own, client) = (certificate(), certificate());
    let server =
        Server::start(
            Some(&own),
            Some(&client),
            |seen| {
                if seen.has_certificate { 200 } else { 401 }
            },
        )
        .await;
    let directory = Directory::new();
    let (chain, key) = (certificate_pem(&client), key_pem(&client));
    directory.write("chain.pem", &chain);
    directory.write("key.pem", &key);
    let status = json!({"clientCertificateData": chain, "clientKeyData": key});
    directory.write("output", &credential(status));
    directory.plugin("cat output");
    let inline = json!({
        "client-certificate-data": STANDARD.encode(&chain),
        "client-key-data": STANDARD.encode(&key),
    });
    let files = json!({"client-certificate": "chain.pem", "client-key": "key.pem"});
    for (user, expected) in [(json!({}), 401), (inline, 200), (files, 200), (exec(json!({})), 200)]
    {
        let settings = directory.load(&server, user.clone()).await.unwrap();
        assert_eq!(
            get(&dial::client(&settings, Generation::default()).unwrap()).await.unwrap(),
            expected,
            "{user}"
        );
        let long = http2::client(&settings, Generation::default()).unwrap().unwrap();
        assert_eq!(get(&long).await.unwrap(), expected, "{user}");
    }
    assert_eq!(directory.runs(), 1);
}
