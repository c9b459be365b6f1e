//! Kubeconfig files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pki::{self, Identity};

/// Credentials of a client.
#[derive(Debug)]
pub(crate) enum Credentials<'a> {
    /// A certificate.
    Certificate(&'a Identity),
    /// The token of a service account.
    Token(&'a str),
}

/// Writes a kubeconfig. It is self-contained and can be copied; JSON is valid YAML.
pub(crate) fn write(
    path: &Path,
    server: &str,
    pki_dir: &Path,
    namespace: &str,
    proof: &Credentials<'_>,
) -> Result<()> {
    let encoded = |path: &Path| -> Result<String> { Ok(STANDARD.encode(fs::read(path)?)) };
    let user: Value = match proof {
        Credentials::Certificate(identity) => json!({
            "client-certificate-data": encoded(&identity.certificate)?,
            "client-key-data": encoded(&identity.key)?,
        }),
        Credentials::Token(token) => json!({"token": token}),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "runtime-test",
            "cluster": {
                "server": server,
                "certificate-authority-data": encoded(&pki::certificate(pki_dir))?,
            },
        }],
        "users": [{"name": "user", "user": user}],
        "contexts": [{
            "name": "runtime-test",
            "context": {"cluster": "runtime-test", "user": "user", "namespace": namespace},
        }],
        "current-context": "runtime-test",
    });
    // Written atomically, because tests may read it at any time, and readable by the owner only.
    let draft = path.with_extension("draft");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(&config)?)?;
    fs::rename(draft, path)?;
    Ok(())
}
