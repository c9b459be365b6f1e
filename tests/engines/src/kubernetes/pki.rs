//! Certificate authority of the cluster, and keys of its members.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData,
};

/// A certificate and its key as PEM files.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// The certificate authority, whose key is only in memory.
pub(crate) struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Creates an authority that writes into this directory.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, "runtime-test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write(&certificate(dir), "CERTIFICATE", issuer.der())?;
        Ok(Self { dir: dir.to_owned(), issuer })
    }

    /// Issues the certificate of an API user; `name` and `group` are visible to the API server.
    pub(crate) fn client(&self, file: &str, name: &str, group: &str) -> Result<Identity> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, params)
    }

    /// Issues the certificate of a server with these names and addresses.
    pub(crate) fn server(&self, file: &str, names: &[&str]) -> Result<Identity> {
        let names: Vec<String> = names.iter().copied().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(file, params)
    }

    fn issue(&self, file: &str, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.issuer)?;
        let identity = Identity {
            certificate: self.dir.join(format!("{file}.crt")),
            key: self.dir.join(format!("{file}.key")),
        };
        write(&identity.certificate, "CERTIFICATE", signed.der())?;
        write(&identity.key, "PRIVATE KEY", key.serialized_der())?;
        Ok(identity)
    }

    /// Creates the key pair for service account tokens; returns the paths of the private and of the
    /// public key.
    pub(crate) fn token_keys(&self) -> Result<(PathBuf, PathBuf)> {
        let (private, public) = (self.dir.join("tokens.key"), self.dir.join("tokens.pub"));
        let key = KeyPair::generate()?;
        write(&private, "PRIVATE KEY", key.serialized_der())?;
        write(&public, "PUBLIC KEY", &key.subject_public_key_info())?;
        Ok((private, public))
    }
}

/// Returns the path of the authority's certificate, which all members trust.
pub(crate) fn certificate(dir: &Path) -> PathBuf {
    dir.join("ca.crt")
}

fn write(path: &Path, label: &str, der: &[u8]) -> Result<()> {
    // The mode is set at creation, so that other users can never read the file.
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(pem(label, der).as_bytes())?;
    Ok(())
}

/// Returns the text form (RFC 7468) with lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_lines_of_64_characters() {
        let text = pem("X", &[0; 49]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "-----BEGIN X-----");
        assert_eq!(lines[1].len(), 64);
        assert_eq!(lines[2], "AA==");
        assert_eq!(lines[3], "-----END X-----");
    }
}
