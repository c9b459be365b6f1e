//! Quotas, limit ranges and admission webhooks of other people.

use std::net::Ipv4Addr;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use runtime_conformance::BoxError;
use runtime_core::{Container, ContainerSpec, Error, ErrorKind, Mount, Runtime};
use runtime_k8s::KubernetesRuntime;
use serde_json::{Value, json};
use test_support::{Connection as _, PATIENCE};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use super::support::{Outcome, Subject, found, scope};

/// A namespace of its own, and a connection to it.
struct Namespace {
    name: String,
    runtime: KubernetesRuntime,
}

impl Namespace {
    async fn new(subject: &Subject) -> Result<Self, BoxError> {
        let name = scope().to_string();
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"name": name}},
        });
        subject.create(&object).await?;
        let of = name.clone();
        subject
            .work(move |cluster| {
                let end = std::time::Instant::now() + PATIENCE;
                let account = ["-n", &of, "get", "serviceaccount", "default"];
                while cluster.kubectl(&account).is_err() {
                    assert!(std::time::Instant::now() < end, "no default account");
                    std::thread::yield_now();
                }
                Ok(())
            })
            .await?;
        let options = subject.environment.options(&scope());
        let options = options.kubeconfig(subject.admin()).namespace(&name);
        Ok(Self { runtime: KubernetesRuntime::connect(options).await?, name })
    }

    /// Creates an object in it.
    async fn add(&self, subject: &Subject, kind: &str, spec: Value) -> Outcome {
        subject
            .create(&json!({
                "apiVersion": "v1", "kind": kind, "spec": spec,
                "metadata": {"name": "rule", "namespace": self.name},
            }))
            .await
    }

    async fn kubectl(&self, subject: &Subject, arguments: &[&str]) -> Result<String, BoxError> {
        let arguments: Vec<String> =
            ["-n", &self.name].iter().chain(arguments).map(|&word| word.to_owned()).collect();
        let work = move |cluster: &test_engines::Cluster| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            Ok(cluster.kubectl(&arguments)?)
        };
        subject.work(work).await
    }

    async fn refused(&self, spec: &ContainerSpec) -> Error {
        let Err(error) = self.runtime.create_container(spec).await else {
            panic!("a container was created against the rules")
        };
        assert!(!error.message().unwrap_or_default().is_empty(), "{error:?}");
        error
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<Arc<dyn Container>, BoxError> {
        // A quota forgets a pod that was deleted a moment later.
        let created = found("pod that the quota takes", async || {
            match self.runtime.create_container(spec).await {
                Err(error) if error.kind() == ErrorKind::ResourceExhausted => Ok(None),
                created => Ok(Some(created?)),
            }
        });
        created.await
    }

    async fn finish(self, subject: Subject) -> Outcome {
        self.runtime.close().await?;
        let name = self.name;
        let work = move |cluster: &test_engines::Cluster| {
            Ok(cluster.kubectl(&["delete", "namespace", &name, "--wait=false"])?)
        };
        subject.work(work).await?;
        subject.finish().await
    }
}

/// A quota that requires a limit, or whose whole is less than what is requested, names the field; a
/// full one does not. So does a limit range.
#[tokio::test(flavor = "multi_thread")]
async fn quota_and_limit_range_name_the_field() -> Outcome {
    let subject = Subject::new().await?;
    let namespace = Namespace::new(&subject).await?;
    let hard = json!({"limits.memory": "1Gi", "pods": "1"});
    namespace.add(&subject, "ResourceQuota", json!({"hard": hard})).await?;
    let counted = ["get", "resourcequota", "rule", "-o", "jsonpath={.status.used.pods}"];
    found("quota that counts", async || {
        let used = namespace.kubectl(&subject, &counted).await?;
        Ok((used == "0").then_some(()))
    })
    .await?;
    let plain = subject.idle();
    let error = namespace.refused(&plain).await;
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("memory")));
    let error = namespace.refused(&plain.clone().memory(2 << 30)).await;
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidArgument, Some("memory")));
    let fits = plain.clone().memory(64 << 20);
    let first = namespace.create(&fits).await?;
    let error = namespace.refused(&fits).await;
    assert_eq!((error.kind(), error.field()), (ErrorKind::ResourceExhausted, None));
    first.remove().await?;

    // The one pod of the quota is enough although the kinds of the mounts have to be found out.
    let folder = subject.environment.shared.join(&namespace.name);
    std::fs::create_dir_all(&folder)?;
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket"))?;
    std::fs::write(folder.join("file"), "content")?;
    let script = "test -S /socket && test -d /folder && cat /file && test -c /null";
    let mounted = subject
        .script(script)
        .memory(64 << 20)
        .mount(Mount::new(folder.join("socket"), "/socket"))
        .mount(Mount::new(&folder, "/folder"))
        .mount(Mount::new(folder.join("file"), "/file"))
        .mount(Mount::new("/dev/null", "/null"));
    let container = namespace.create(&mounted).await?;
    container.start().await?;
    let exit = container.wait().await?;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    container.remove().await?;
    std::fs::remove_dir_all(&folder)?;

    namespace.kubectl(&subject, &["delete", "resourcequota", "rule"]).await?;
    let limit = json!({"type": "Container", "max": {"memory": "128Mi", "cpu": "1"}, "min": {"memory": "16Mi"}});
    namespace.add(&subject, "LimitRange", json!({"limits": [limit]})).await?;
    for (spec, field) in [
        (plain.clone().memory(256 << 20), "memory"),
        (plain.clone().memory(8 << 20), "memory"),
        (plain.clone().memory(64 << 20).cpu_count(2.0), "cpu_count"),
    ] {
        let error = namespace.refused(&spec).await;
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::InvalidArgument, Some(field)),
            "{error:?}"
        );
    }
    namespace.create(&fits).await?.remove().await?;
    namespace.finish(subject).await
}

/// A webhook that denies is a policy with a name; one that does not answer is `Unavailable`.
#[tokio::test(flavor = "multi_thread")]
async fn webhook_denies_by_its_name() -> Outcome {
    let subject = Subject::new().await?;
    let namespace = Namespace::new(&subject).await?;
    let (address, authority) = serve().await?;
    let webhook = |url: String, authority: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": namespace.name},
            "webhooks": [{
                "name": "rules.example.com",
                "clientConfig": {"url": url, "caBundle": authority},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
                "namespaceSelector": {"matchLabels": {"name": namespace.name}},
                "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            }],
        })
    };
    let denying = webhook(format!("https://localhost:{address}/"), &authority);
    subject.create(&denying).await?;
    let spec = subject.idle();
    // The server takes a moment to know it.
    let error = found("webhook that is asked", async || {
        match namespace.runtime.create_container(&spec).await {
            Ok(container) => Ok(container.remove().await.map(|()| None)?),
            Err(error) => Ok(Some(error)),
        }
    })
    .await?;
    assert_eq!((error.kind(), error.field()), (ErrorKind::PermissionDenied, None), "{error:?}");
    let words = error.message().unwrap_or_default();
    assert!(words.contains("rules.example.com") && words.contains("needs-owner"), "{words}");
    subject.delete(&denying).await?;

    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
    let broken = webhook(format!("https://{closed}/"), &authority);
    subject.create(&broken).await?;
    let error = found("webhook that is asked", async || {
        match namespace.runtime.create_container(&spec).await {
            Ok(container) => Ok(container.remove().await.map(|()| None)?),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
            Err(error) => Ok(Some(error)),
        }
    })
    .await?;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().is_some_and(|words| words.contains("rules.example.com")), "{error:?}");
    subject.delete(&broken).await?;
    namespace.finish(subject).await
}

/// Serves a webhook that denies everything as Gatekeeper does. Returns its port, and its authority as
/// a webhook configuration has it.
async fn serve() -> Result<(u16, String), BoxError> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(
        tokio_rustls::rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_no_client_auth()
    .with_single_cert(vec![cert.der().clone()], key.into())?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service_fn(deny))
                    .await;
            });
        }
    });
    use base64::Engine as _;
    Ok((port, base64::engine::general_purpose::STANDARD.encode(cert.pem())))
}

async fn deny(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, BoxError> {
    let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {
            "uid": review["request"]["uid"],
            "allowed": false,
            "status": {"code": 403, "message": "[needs-owner] you must provide labels: {\"owner\"}"},
        },
    });
    let mut response = Response::new(Full::from(answer.to_string()));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    Ok(response)
}
