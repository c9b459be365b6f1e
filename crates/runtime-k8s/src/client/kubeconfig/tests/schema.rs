//! One row for each field and odd value.

use runtime_core::ErrorKind;

use super::{load, one};
use crate::client::proxy::fake::{certificate, certificate_pem};

/// Expected result of a row.
enum Is {
    /// The settings have this server.
    At(&'static str),
    /// An error whose message contains this text.
    Bad(&'static str),
}
use Is::{At, Bad};

const SERVER: &str = "https://127.0.0.1:9/";

async fn check(name: &str, text: impl AsRef<[u8]>, is: Is) {
    match (load(text).await, is) {
        (Ok(settings), At(server)) => {
            assert_eq!(settings.config.cluster_url.to_string(), server, "{name}");
        }
        (Err(error), Bad(words)) => {
            let message = error.message().unwrap_or_default().to_owned();
            assert!(message.contains(words), "{name}: {message}");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}");
            assert_eq!(error.field(), Some("kubeconfig"), "{name}");
            assert!(!error.is_retryable(), "{name}");
            assert!(!format!("{error:?}").contains("secret"), "{name}: {error:?}");
        }
        (Ok(settings), Bad(words)) => {
            panic!("{name}: {} and not {words}", settings.config.cluster_url)
        }
        (Err(error), At(_)) => panic!("{name}: {error:?}"),
    }
}

#[tokio::test]
async fn cluster_fields_are_read_as_kubectl_reads_them() {
    let pem = certificate_pem(&certificate());
    let pem = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let valid = format!("{{server: 'https://127.0.0.1:9', certificate-authority-data: {pem}}}");
    let both = format!(
        "{{server: 'https://127.0.0.1:9', certificate-authority-data: {pem}, \
         insecure-skip-tls-verify: true}}"
    );
    for (fields, is) in [
        ("{server: 'https://127.0.0.1:9'}", At(SERVER)),
        ("{server: 'HTTPS://127.0.0.1:9/'}", At(SERVER)),
        ("{server: '127.0.0.1:9'}", At("http://127.0.0.1:9/")),
        ("{server: '127.0.0.1:9/'}", At("http://127.0.0.1:9/")),
        ("{server: 'localhost'}", At("http://localhost/")),
        ("{server: 'api.example.test'}", At("http://api.example.test/")),
        ("{server: '[::1]:9'}", At("http://[::1]:9/")),
        // The scheme stays even if TLS is configured.
        ("{server: '127.0.0.1:9', insecure-skip-tls-verify: true}", At("http://127.0.0.1:9/")),
        ("{server: '127.0.0.1:9/x'}", Bad("neither a URL nor host:port")),
        ("{server: 'https://127.0.0.1:9/a/b?q=1#f'}", At("https://127.0.0.1:9/a/b")),
        ("{server: 'https://[::1]:9'}", At("https://[::1]:9/")),
        ("{server: 'https://u:secret@127.0.0.1:9'}", At(SERVER)),
        ("{server: 'ftp://u:secret@127.0.0.1:9'}", Bad("neither a URL")),
        ("{server: 'https://'}", Bad("neither a URL")),
        ("{server: '://x'}", Bad("neither a URL")),
        ("{server: ' https://127.0.0.1:9 '}", Bad("neither a URL")),
        ("{server: 'https://127.0.0.1:70000'}", Bad("neither a URL")),
        ("{server: 'https://127.0.0.1:x'}", Bad("neither a URL")),
        ("{server: ''}", Bad("has no server")),
        ("{server: null}", Bad("has no server")),
        ("{}", Bad("has no server")),
        ("null", Bad("has no server")),
        ("{server: 9}", Bad("clusters[0].cluster.server is not a string")),
        ("{Server: 'https://127.0.0.1:9'}", Bad("has no server")),
        ("{server: 'https://a', server: 'https://127.0.0.1:9'}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', nonsense: {a: 1}}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', tls-server-name: ''}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', tls-server-name: null}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', tls-server-name: api.example.test}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', tls-server-name: 10.0.0.1}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', tls-server-name: 'a b'}", Bad("tls-server-name")),
        ("{server: 'http://127.0.0.1:9', tls-server-name: 'a b'}", At("http://127.0.0.1:9/")),
        ("{server: 'https://127.0.0.1:9', insecure-skip-tls-verify: true}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', insecure-skip-tls-verify: null}", At(SERVER)),
        (
            "{server: 'https://127.0.0.1:9', insecure-skip-tls-verify: 'true'}",
            Bad("clusters[0].cluster.insecure-skip-tls-verify is not a boolean"),
        ),
        ("{server: 'https://127.0.0.1:9', disable-compression: true}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', disable-compression: null}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', disable-compression: 1}", Bad("is not a boolean")),
        ("{server: 'https://127.0.0.1:9', extensions: null}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', extensions: [{name: a, extension: [1]}]}", At(SERVER)),
        (&valid, At(SERVER)),
        (&both, Bad("certificate authority and insecure-skip-tls-verify")),
        ("{server: 'https://127.0.0.1:9', certificate-authority-data: ''}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', certificate-authority-data: null}", At(SERVER)),
        (
            "{server: 'https://127.0.0.1:9', certificate-authority-data: '!!'}",
            Bad("certificate-authority-data is not base64"),
        ),
        (
            "{server: 'https://127.0.0.1:9', certificate-authority-data: YWJj}",
            Bad("certificate-authority has no PEM certificate"),
        ),
        // A server without TLS has no certificate to check.
        (
            "{server: 'http://127.0.0.1:9', certificate-authority-data: YWJj}",
            At("http://127.0.0.1:9/"),
        ),
        ("{server: 'https://127.0.0.1:9', certificate-authority: ''}", At(SERVER)),
        (
            "{server: 'https://127.0.0.1:9', certificate-authority: /nonexistent}",
            Bad("failed to read certificate-authority /nonexistent"),
        ),
        (
            "{server: 'https://127.0.0.1:9', certificate-authority: /x, \
             certificate-authority-data: YWJj}",
            Bad("both certificate-authority and certificate-authority-data"),
        ),
        ("{server: 'https://127.0.0.1:9', proxy-url: ''}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', proxy-url: null}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', proxy-url: 'http://127.0.0.1:10'}", At(SERVER)),
        ("{server: 'https://127.0.0.1:9', proxy-url: 'ftp://u:secret@x'}", Bad("proxy-url")),
        ("{server: 'https://127.0.0.1:9', proxy-url: '127.0.0.1:10'}", Bad("proxy-url")),
        ("{server: 'https://127.0.0.1:9', proxy-url: 7}", Bad("is not a string")),
    ] {
        check(fields, one(fields, "{token: t}"), is).await;
    }
}

#[tokio::test]
async fn user_fields_are_read_as_kubectl_reads_them() {
    for (fields, is) in [
        ("{}", At(SERVER)),
        ("null", At(SERVER)),
        ("{token: t, foo: bar}", At(SERVER)),
        ("{token: 123}", Bad("users[0].user.token is not a string")),
        ("{token: \"sec\\nret\"}", Bad("token is not a header value")),
        ("{username: x}", At(SERVER)),
        ("{username: '', password: p}", At(SERVER)),
        ("{username: x, password: secret}", At(SERVER)),
        ("{token: secret, username: b, password: c}", Bad("both a token and a username")),
        ("{token: secret, password: c}", Bad("both a token and a username")),
        ("{tokenFile: /nonexistent, username: b}", Bad("both a tokenFile and a username")),
        ("{tokenFile: /nonexistent}", Bad("failed to read tokenFile /nonexistent")),
        ("{tokenFile: /nonexistent, token: t}", At(SERVER)),
        ("{tokenFile: /dev/null}", Bad("tokenFile /dev/null is empty")),
        ("{tokenFile: ''}", At(SERVER)),
        ("{client-certificate-data: YWJj}", Bad("a client certificate and no key for it")),
        ("{client-key-data: YWJj}", At(SERVER)),
        (
            "{client-certificate-data: YWJj, client-key-data: YWJj}",
            Bad("client-certificate has no"),
        ),
        ("{client-key-data: secret!}", Bad("client-key-data is not base64")),
        (
            "{client-certificate: /x, client-certificate-data: YWJj, client-key: /y}",
            Bad("both client-certificate and client-certificate-data"),
        ),
        (
            "{client-certificate: /x, client-key: /y, client-key-data: YWJj}",
            Bad("both client-key and client-key-data"),
        ),
        ("{client-certificate: /nonexistent, client-key: /y}", Bad("client-certificate /nonexist")),
        ("{client-certificate: '', client-key: ''}", At(SERVER)),
        ("{as: x, as-uid: '1', as-groups: [a, b], as-user-extra: {k: [v]}}", At(SERVER)),
        ("{as-uid: '1'}", Bad("without as")),
        ("{as-groups: [x]}", Bad("without as")),
        ("{as-user-extra: {k: [v]}}", Bad("without as")),
        ("{as: '', as-groups: [], as-user-extra: {}}", At(SERVER)),
        ("{as: null, as-groups: null, as-user-extra: null, as-uid: null}", At(SERVER)),
        ("{as: x, as-user-extra: {k: null}}", At(SERVER)),
        ("{as: x, as-groups: y}", Bad("users[0].user.as-groups is not a sequence")),
        ("{as: \"a\\nb\"}", Bad("is not a header value")),
        ("{auth-provider: null, exec: null}", At(SERVER)),
        ("{auth-provider: {name: gcp, config: {a: b}}}", Bad("auth-provider \"gcp\"")),
        ("{auth-provider: {name: oidc, config: null}}", Bad("auth-provider \"oidc\"")),
        ("{auth-provider: {name: gcp}, exec: {command: a}}", Bad("both auth-provider and exec")),
        ("{exec: {}}", Bad("has no command")),
        ("{exec: {command: x}}", Bad("has no apiVersion")),
        (
            "{exec: {command: x, apiVersion: client.authentication.k8s.io/v1alpha1}}",
            Bad("unknown apiVersion"),
        ),
        (
            "{exec: {command: x, apiVersion: client.authentication.k8s.io/v1}}",
            Bad("interactiveMode"),
        ),
        (
            "{exec: {command: x, apiVersion: client.authentication.k8s.io/v1, \
             interactiveMode: never}}",
            Bad("unknown interactiveMode"),
        ),
        (
            "{exec: {command: x, apiVersion: client.authentication.k8s.io/v1, \
             interactiveMode: Never, env: [{name: '', value: secret}]}}",
            Bad("an environment variable without a name"),
        ),
        ("{exec: {command: x, args: secret}}", Bad("users[0].user.exec.args is not a sequence")),
        // A user that has a token has no need of a plugin.
        (
            "{token: t, exec: {command: /nonexistent, interactiveMode: Never, \
             apiVersion: client.authentication.k8s.io/v1, args: null, env: null}}",
            At(SERVER),
        ),
        (
            "{exec: {command: /nonexistent/plugin, interactiveMode: Never, \
             apiVersion: client.authentication.k8s.io/v1, installHint: get it}}",
            Bad("get it"),
        ),
    ] {
        check(fields, one("{server: 'https://127.0.0.1:9'}", fields), is).await;
    }
}

#[tokio::test]
async fn file_fields_are_read_as_kubectl_reads_them() {
    let k = "clusters: [{name: k, cluster: {server: 'https://127.0.0.1:9'}}]\n";
    let u = "users: [{name: u, user: {token: t}}]\n";
    let c = "contexts: [{name: c, context: {cluster: k, user: u}}]\n";
    let whole = format!("current-context: c\n{k}{u}{c}");
    let with = |more: &str| format!("{more}\n{whole}");
    for (text, is) in [
        (with("apiVersion: v1\nkind: Config"), At(SERVER)),
        (with("apiVersion: ''\nkind: null"), At(SERVER)),
        (with("apiVersion: v2"), Bad("unknown kind")),
        (with("apiVersion: v1\nkind: Pod"), Bad("unknown kind")),
        (with("preferences: {colors: true}\nextensions: null\nzap: [1]"), At(SERVER)),
        (with("---"), At(SERVER)),
        (format!("{whole}---\ncurrent-context: d\n"), At(SERVER)),
        (format!("\u{feff}{whole}"), At(SERVER)),
        (
            format!(
                "x: &a {{cluster: k, user: u}}\ncurrent-context: c\n{k}{u}contexts: [{{name: c, context: *a}}]"
            ),
            At(SERVER),
        ),
        (
            format!(
                "current-context: c\n{u}{c}clusters: [{{name: k, cluster: {{server: 'https://127.0.0.1:9'}}}}, null, {{name: z}}]"
            ),
            At(SERVER),
        ),
        (
            format!("current-context: c\n{u}{c}clusters: [null, null]"),
            Bad("two entries named \"\""),
        ),
        (
            format!("current-context: c\n{u}{c}clusters: [{{name: k}}, {{name: k}}]"),
            Bad("two entries named \"k\" in clusters"),
        ),
        (
            format!("current-context: c\n{u}{c}clusters: {{k: {{server: x}}}}"),
            Bad("clusters is not a sequence"),
        ),
        (format!("current-context: 7\n{k}{u}{c}"), Bad("current-context is not a string")),
        (format!("current-context: nope\n{k}{u}{c}"), Bad("there is no context \"nope\"")),
        (format!("{k}{u}{c}"), Bad("has no current-context")),
        (format!("current-context: ''\n{k}{u}{c}"), Bad("has no current-context")),
        (format!("current-context: c\n{u}{c}"), Bad("there is no cluster \"k\"")),
        (format!("current-context: c\n{k}{u}contexts: [{{name: c}}]"), Bad("names no cluster")),
        (
            format!("current-context: c\n{k}{u}contexts: [{{name: c, context: {{cluster: k}}}}]"),
            At(SERVER),
        ),
        (
            format!(
                "current-context: c\n{k}{u}contexts: [{{name: c, context: {{cluster: k, user: nope}}}}]"
            ),
            At(SERVER),
        ),
        (
            format!(
                "current-context: c\n{k}{u}contexts: [{{name: c, context: {{cluster: k, user: 1}}}}]"
            ),
            Bad("contexts[0].context.user is not a string"),
        ),
        (String::new(), Bad("is empty")),
        ("# nothing\n".into(), Bad("is empty")),
        ("null".into(), Bad("is empty")),
        ("{}".into(), Bad("is empty")),
        ("[]".into(), Bad("is not a mapping")),
        ("hello".into(), Bad("is not a mapping")),
        ("a: [\nsecret".into(), Bad("is not YAML")),
    ] {
        check(&text, &text, is).await;
    }
    let wide: Vec<u8> =
        std::iter::once(0xfeff).chain(whole.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    check("UTF-16", &wide, At(SERVER)).await;
    check("odd UTF-16", &wide[..wide.len() - 1], Bad("is not UTF-8 or UTF-16")).await;
    check("Latin-1", b"a: \xe4", Bad("is not UTF-8 or UTF-16")).await;
}

#[tokio::test]
async fn namespace_defaults_to_context() {
    for (namespace, expected) in [
        ("", "default"),
        ("namespace: ''", "default"),
        ("namespace: null", "default"),
        ("namespace: ns", "ns"),
    ] {
        let text = format!(
            "{{current-context: c, clusters: [{{name: k, cluster: {{server: x}}}}], \
             contexts: [{{name: c, context: {{cluster: k, {namespace}}}}}]}}"
        );
        assert_eq!(load(text).await.unwrap().config.default_namespace, expected);
    }
}
