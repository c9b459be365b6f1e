//! An engine behind TLS that requires a client certificate, like `dockerd --tlsverify`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_tests::Environment;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use runtime_conformance::BoxError;
use runtime_core::{ErrorKind, Runtime as _};
use runtime_docker::{DockerOptions, DockerRuntime};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

use super::support::{Outcome, fails, scope};

/// Certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Result<Self, BoxError> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Returns a certificate for 127.0.0.1 and its key.
    fn sign(
        &self,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), BoxError> {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()])?;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.0)?;
        Ok((signed.der().clone(), PrivateKeyDer::Pkcs8(key.serialized_der().to_vec().into())))
    }

    /// Writes the certificate of the authority, for clients that trust it.
    fn write(&self, folder: &Path) -> Outcome {
        write(&folder.join("ca.pem"), "CERTIFICATE", self.0.der())
    }

    /// Writes a certificate of a client and its key.
    fn write_client(&self, folder: &Path) -> Outcome {
        let (certificate, key) = self.sign(ExtendedKeyUsagePurpose::ClientAuth)?;
        write(&folder.join("cert.pem"), "CERTIFICATE", &certificate)?;
        write(&folder.join("key.pem"), "PRIVATE KEY", key.secret_der())
    }
}

fn write(path: &Path, label: &str, der: &[u8]) -> Outcome {
    let text = STANDARD.encode(der);
    Ok(std::fs::write(path, format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"))?)
}

/// Serves TLS in front of the engine of the environment, for clients with a certificate of `authority`.
/// Returns the address; the server stops when the tasks are dropped.
async fn front(authority: &Authority) -> Result<(String, JoinSet<()>), BoxError> {
    let engine = Environment::read()?.host.trim_start_matches("unix://").to_owned();
    let provider = Arc::new(crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone())?;
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let (certificate, key) = authority.sign(ExtendedKeyUsagePurpose::ServerAuth)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(vec![certificate], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let host = format!("tcp://{}", listener.local_addr()?);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, engine) = (acceptor.clone(), engine.clone());
            connections.spawn(async move {
                match acceptor.accept(stream).into_fallible().await {
                    Ok(mut client) => {
                        if let Ok(mut engine) = UnixStream::connect(engine).await {
                            let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
                        }
                    }
                    // The remaining input is read, because a reset would discard the alert.
                    Err((_, mut stream)) => {
                        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    }
                }
            });
        }
    });
    Ok((host, tasks))
}

async fn connect(host: &str, certificates: &Path) -> runtime_core::Result<DockerRuntime> {
    DockerRuntime::connect(DockerOptions::new(scope()).host(host).cert_path(certificates)).await
}

#[tokio::test]
async fn good_certificates_on_both_sides() -> Outcome {
    let authority = Authority::new()?;
    let (host, _front) = front(&authority).await?;
    let folder = tempfile::tempdir()?;
    authority.write(folder.path())?;
    authority.write_client(folder.path())?;
    let runtime = connect(&host, folder.path()).await?;
    assert!(!runtime.health().await?.version.is_empty());
    Ok(runtime.close().await?)
}

#[tokio::test]
async fn an_engine_with_a_certificate_of_somebody_else() -> Outcome {
    let (host, _front) = front(&Authority::new()?).await?;
    let folder = tempfile::tempdir()?;
    let other = Authority::new()?;
    other.write(folder.path())?;
    other.write_client(folder.path())?;
    let begun = Instant::now();
    let error = fails(connect(&host, folder.path()).await, ErrorKind::Unauthenticated, begun);
    assert!(!error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_client_without_a_certificate() -> Outcome {
    let authority = Authority::new()?;
    let (host, _front) = front(&authority).await?;
    let folder = tempfile::tempdir()?;
    authority.write(folder.path())?;
    let begun = Instant::now();
    let error = fails(connect(&host, folder.path()).await, ErrorKind::Unauthenticated, begun);
    assert!(!error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");
    Ok(())
}
