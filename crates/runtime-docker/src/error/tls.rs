//! Failed TLS handshakes.

use std::io;

/// Returns the cause if a certificate made the handshake fail: the engine's, or this client's. With
/// TLS 1.3 the engine refuses the client's certificate only after the handshake.
pub(super) fn refusal(error: &io::Error) -> Option<&'static str> {
    use tokio_rustls::rustls::{AlertDescription as Alert, Error as Tls};
    match error.get_ref()?.downcast_ref::<Tls>()? {
        Tls::InvalidCertificate(_) => Some("the engine's certificate is not valid"),
        Tls::AlertReceived(Alert::CertificateRequired) => {
            Some("the engine requires a client certificate")
        }
        Tls::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => Some("the engine refused the client certificate"),
        _ => None,
    }
}
