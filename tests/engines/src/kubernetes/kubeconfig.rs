//! Files that tell a client where the cluster is and who it is.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pki::{self, Identity};

/// How a client proves who it is.
#[derive(Debug)]
pub(crate) enum Proof<'a> {
    /// By a certificate.
    Certificate(&'a Identity),
    /// By the token of a service account.
    Token(&'a str),
}

/// Writes one. Everything is inside the file, so that it can be copied elsewhere; JSON is YAML.
pub(crate) fn write(
    path: &Path,
    server: &str,
    pki_dir: &Path,
    namespace: &str,
    proof: &Proof<'_>,
) -> Result<()> {
    let encoded = |path: &Path| -> Result<String> { Ok(STANDARD.encode(fs::read(path)?)) };
    let user: Value = match proof {
        Proof::Certificate(identity) => json!({
            "client-certificate-data": encoded(&identity.certificate)?,
            "client-key-data": encoded(&identity.key)?,
        }),
        Proof::Token(token) => json!({"token": token}),
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
    // Complete or not there, and for our eyes only: a test may read it at any time.
    let draft = path.with_extension("draft");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(&config)?)?;
    fs::rename(draft, path)?;
    Ok(())
}
