//! TLS connections to engines.

use std::io;
use std::path::Path;
use std::sync::Arc;

use runtime_core::{Error, Result};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::options::TlsFiles;

/// A ready TLS configuration.
#[derive(Clone)]
pub(crate) struct Tls(TlsConnector);

impl Tls {
    /// Reads the certificates. Without a CA file, the engine's certificate has to be trusted by the
    /// operating system.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the file that cannot be read.
    pub(crate) fn new(files: &TlsFiles) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        match &files.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|source| bad(path, source))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let internal = |source| Error::internal("failed to configure TLS").with_source(source);
        let config =
            ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(internal)?
                .with_root_certificates(roots);
        let config = match &files.client {
            Some((certificate, key)) => config
                .with_client_auth_cert(
                    certificates(certificate)?,
                    PrivateKeyDer::from_pem_file(key).map_err(|source| bad(key, source))?,
                )
                .map_err(|source| bad(key, source))?,
            None => config.with_no_client_auth(),
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(crate) async fn handshake(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.0.connect(name, stream).await
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| bad(path, source))
}

fn bad(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid("cert_path", format!("failed to load {}", path.display())).with_source(source)
}
