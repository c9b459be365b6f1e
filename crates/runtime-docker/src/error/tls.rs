//! Failed TLS handshakes.

use std::io;

/// What is wrong with a certificate, where that is why a connection has failed: with the engine's, as
/// we see it, or with ours, as the engine sees it. With TLS 1.3 the second comes only when the
/// connection is open.
pub(super) fn refusal(error: &io::Error) -> Option<&'static str> {
    use tokio_rustls::rustls::{AlertDescription as Alert, Error as Tls};
    match error.get_ref()?.downcast_ref::<Tls>()? {
        Tls::InvalidCertificate(_) => Some("the engine's certificate is not good"),
        Tls::AlertReceived(Alert::CertificateRequired) => {
            Some("the engine wants a certificate of its clients")
        }
        Tls::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied,
        ) => Some("the engine does not take our certificate"),
        _ => None,
    }
}
