//! Validating admission webhook that the API server calls.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use runtime_conformance::BoxError;
use runtime_core::LABEL_SCOPE;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::support::Namespace;

/// Function that answers a review: `allowed`, and optionally `status` or `warnings`.
pub(super) type Review = fn(&Value) -> Value;

/// Webhook for the pods of one namespace. It serves until it is dropped.
pub(super) struct Webhook {
    received: Arc<Mutex<Vec<Value>>>,
    _server: JoinSet<()>,
}

impl Webhook {
    /// Serves on loopback, and waits until the API server calls the webhook.
    ///
    /// `name` is a domain name with at least three parts.
    pub(super) async fn start(
        namespace: &mut Namespace,
        name: &str,
        review: Review,
    ) -> Result<Self, BoxError> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::Pkcs8(key.serialized_der().to_vec().into());
        let config =
            ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(vec![signed.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}/", listener.local_addr()?);
        let authority = STANDARD.encode(issuer.der());
        let authority =
            format!("-----BEGIN CERTIFICATE-----\n{authority}\n-----END CERTIFICATE-----\n");
        let received: Arc<Mutex<Vec<Value>>> = Arc::default();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, acceptor, Arc::clone(&received), review));
        let webhook = Self { received, _server: server };
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": namespace.name},
            "webhooks": [{
                "name": name,
                "clientConfig": {"url": url, "caBundle": STANDARD.encode(authority)},
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
                    "operations": ["CREATE", "UPDATE"],
                }],
                "namespaceSelector": {"matchLabels": {LABEL_SCOPE: namespace.name}},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 10,
            }],
        });
        namespace.create_other("validatingwebhookconfiguration", &configuration).await?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "reviewed", "namespace": namespace.name},
            "spec": {"containers": [{"name": "main", "image": "reviewed"}]},
        });
        test_support::until("call of the webhook", async || {
            // A refusal is a call as well.
            let _ = namespace.dry_run(&pod).await;
            Ok(!webhook.take_received().is_empty())
        })
        .await?;
        Ok(webhook)
    }

    /// Returns the requests to review since the last call.
    pub(super) fn take_received(&self) -> Vec<Value> {
        std::mem::take(&mut self.received.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    received: Arc<Mutex<Vec<Value>>>,
    review: Review,
) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, received) = (acceptor.clone(), Arc::clone(&received));
        connections.spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = service_fn(move |request| {
                let received = Arc::clone(&received);
                async move {
                    let answered = answer(request, &received, review).await;
                    answered.map_err(|error| std::io::Error::other(error.to_string()))
                }
            });
            // The API server sees an error as well.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(tls), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    received: &Mutex<Vec<Value>>,
    review: Review,
) -> Result<Response<Full<Bytes>>, BoxError> {
    let body = request.into_body().collect().await?.to_bytes();
    let mut answer: Value = serde_json::from_slice(&body)?;
    let request = answer["request"].take();
    let mut response = review(&request);
    response["uid"] = request["uid"].clone();
    answer["response"] = response;
    received.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let body = Full::new(Bytes::from(answer.to_string()));
    Ok(Response::builder().header("content-type", "application/json").body(body)?)
}
