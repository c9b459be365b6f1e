//! The client certificate of a connection.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use runtime_core::Result;
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use super::schema::bad;

/// How long a certificate from a file is used before the file is read again.
const REREAD_INTERVAL: Duration = Duration::from_secs(60);

/// PEM text, inline or in a file.
#[derive(Clone)]
pub(super) enum Pem {
    Inline(Vec<u8>),
    File(PathBuf),
}

impl Pem {
    /// Returns the inline text if there is any, else the file. Neither is `None`.
    pub(super) fn of(inline: &[u8], file: &str) -> Option<Self> {
        if !inline.is_empty() {
            return Some(Self::Inline(inline.to_vec()));
        }
        (!file.is_empty()).then(|| Self::File(file.into()))
    }

    pub(super) fn read(&self, field: &str) -> Result<Vec<u8>> {
        match self {
            Self::Inline(bytes) => Ok(bytes.clone()),
            Self::File(path) => std::fs::read(path).map_err(|source| {
                bad(format!("failed to read {field} {}: {source}", path.display()))
                    .with_source(source)
            }),
        }
    }
}

/// Reads the certificates of a PEM text.
pub(super) fn certificates(pem: &[u8], field: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| bad(format!("{field} is not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(bad(format!("{field} has no PEM certificate")));
    }
    Ok(certificates)
}

/// Reads a certificate chain and its key.
pub(super) fn certified(
    chain: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>> {
    let chain = certificates(chain, "client-certificate")?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|_| bad("client-key has no PEM private key"))?;
    CertifiedKey::from_der(chain, key, provider)
        .map(Arc::new)
        .map_err(|error| bad(format!("client-certificate and client-key cannot be used: {error}")))
}

/// The source of the client certificate.
pub(super) enum Identity {
    /// The kubeconfig or its files, which are read again while they are used.
    Kubeconfig { chain: Pem, key: Pem, provider: Arc<CryptoProvider>, last: Mutex<Last> },
    /// An exec plugin, which sets it.
    Plugin(Arc<Issued>),
}

/// The last certificate of an exec plugin.
pub(super) type Issued = Mutex<Option<Arc<CertifiedKey>>>;

pub(super) struct Last {
    read: Instant,
    key: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// `InvalidArgument` if they cannot be used.
    pub(super) fn read(chain: Pem, key: Pem, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let last = Mutex::new(Last {
            read: Instant::now(),
            key: certified(&chain.read("client-certificate")?, &key.read("client-key")?, provider)?,
        });
        Ok(Self::Kubeconfig { chain, key, provider: Arc::clone(provider), last })
    }

    fn current(&self) -> Option<Arc<CertifiedKey>> {
        match self {
            Self::Plugin(issued) => {
                issued.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Arc::clone)
            }
            Self::Kubeconfig { chain, key, provider, last } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let is_file = matches!(chain, Pem::File(_)) || matches!(key, Pem::File(_));
                if is_file && last.read.elapsed() >= REREAD_INTERVAL {
                    last.read = Instant::now();
                    let read = || {
                        certified(
                            &chain.read("client-certificate")?,
                            &key.read("client-key")?,
                            provider,
                        )
                    };
                    match read() {
                        Ok(key) => last.key = key,
                        Err(error) => tracing::warn!(%error, "the last client certificate is kept"),
                    }
                }
                Some(Arc::clone(&last.key))
            }
        }
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.current().is_some()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}
