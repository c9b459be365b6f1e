//! Exec plugins: programs that return credentials.

use std::io::{self, IsTerminal as _};
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use http::HeaderValue;
use k8s_openapi::jiff::Timestamp;
use runtime_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::sign::CertifiedKey;

use super::identity::{Issued, certified};
use super::schema::{Cluster, Exec};
use crate::client::authorization::bearer;

/// The variable that the request to a plugin is in.
const EXEC_INFO: &str = "KUBERNETES_EXEC_INFO";

/// How much a plugin may write to its standard output.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// How much of a plugin's standard error an error quotes.
const QUOTED_BYTES_MAX: usize = 2 << 10;

/// A plugin, and the credentials that it returned last.
///
/// It is run by the first request, again once its credentials have expired, and again after a
/// response with 401.
pub(super) struct Plugin {
    exec: Exec,
    cluster: Option<ClusterInfo>,
    provider: Option<Arc<CryptoProvider>>,
    issued: Arc<Issued>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    runs: u64,
    last: Option<Credential>,
}

#[derive(Clone)]
struct Credential {
    header: Option<HeaderValue>,
    certificate: Option<Arc<CertifiedKey>>,
    /// The text that the certificate was read from, to compare it with.
    pem: Option<String>,
    expires: Option<Timestamp>,
}

/// The header of a request, and the run of the plugin that returned it.
pub(super) struct Current {
    pub(super) header: Option<HeaderValue>,
    pub(super) run: u64,
}

#[derive(Serialize)]
struct Request<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
struct Spec<'a> {
    interactive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a ClusterInfo>,
}

/// The cluster in the input of a plugin.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ClusterInfo {
    server: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    tls_server_name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    insecure_skip_tls_verify: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    certificate_authority_data: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    proxy_url: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disable_compression: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Value>,
}

impl ClusterInfo {
    pub(super) fn new(cluster: &Cluster, authority: Option<&[u8]>) -> Self {
        use base64::Engine as _;
        Self {
            server: cluster.server.clone(),
            tls_server_name: cluster.tls_server_name.clone(),
            insecure_skip_tls_verify: cluster.insecure_skip_tls_verify,
            certificate_authority_data: authority
                .map(|pem| base64::engine::general_purpose::STANDARD.encode(pem))
                .unwrap_or_default(),
            proxy_url: cluster.proxy_url.clone(),
            disable_compression: cluster.disable_compression,
            config: cluster.exec_extension().cloned(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl Plugin {
    /// Takes what a checked kubeconfig has. Without a provider of TLS the plugin can return tokens
    /// alone.
    pub(super) fn new(
        exec: Exec,
        cluster: ClusterInfo,
        provider: Option<Arc<CryptoProvider>>,
    ) -> Self {
        let cluster = exec.provide_cluster_info.then_some(cluster);
        Self { exec, cluster, provider, issued: Arc::default(), state: Mutex::default() }
    }

    /// Returns the certificate of the last run.
    pub(super) fn issued(&self) -> Arc<Issued> {
        Arc::clone(&self.issued)
    }

    /// Returns credentials that have not expired. Runs the plugin if there are none.
    pub(super) async fn current(&self) -> Result<Current> {
        let mut state = self.state.lock().await;
        let is_fresh = state.last.as_ref().is_some_and(|last| {
            last.expires.is_none_or(|expires| SystemTime::from(expires) > SystemTime::now())
        });
        if !is_fresh {
            self.refresh(&mut state).await?;
        }
        let header = state.last.as_ref().and_then(|last| last.header.clone());
        Ok(Current { header, run: state.runs })
    }

    /// Runs the plugin again after a response with 401 to what `run` returned, unless it has run
    /// since. Returns whether there are other credentials now.
    pub(super) async fn renew(&self, run: u64) -> bool {
        let mut state = self.state.lock().await;
        if state.runs != run {
            return true;
        }
        let before = state.last.clone();
        if let Err(error) = self.refresh(&mut state).await {
            tracing::warn!(%error, "failed to renew the credentials after a response with 401");
            return false;
        }
        match (&before, &state.last) {
            (Some(before), Some(now)) => before.header != now.header || before.pem != now.pem,
            _ => true,
        }
    }

    async fn refresh(&self, state: &mut State) -> Result<()> {
        let credential = self.run(state.runs == 0).await?;
        state.runs += 1;
        *self.issued.lock().unwrap_or_else(PoisonError::into_inner) =
            credential.certificate.clone();
        state.last = Some(credential);
        Ok(())
    }

    /// Runs the plugin. It may use the terminal in its first run alone: later the terminal belongs
    /// to the containers' sessions.
    async fn run(&self, is_first: bool) -> Result<Credential> {
        let has_terminal = is_first && io::stdin().is_terminal();
        let interactive = match self.exec.interactive_mode.as_str() {
            "Never" => false,
            "Always" if !has_terminal => {
                return Err(self.failed("needs a terminal (interactiveMode: Always)"));
            }
            _ => has_terminal,
        };
        let Exec { api_version, command, args, env, install_hint, .. } = &self.exec;
        let spec = Spec { interactive, cluster: self.cluster.as_ref() };
        let request = Request { kind: "ExecCredential", api_version, spec };
        let request = serde_json::to_string(&request).map_err(|source| {
            Error::internal("failed to write ExecCredential").with_source(source)
        })?;
        let inherited = |is| if is { Stdio::inherit() } else { Stdio::null() };
        let spawned = Command::new(command)
            .args(args)
            .envs(env.iter().map(|variable| (&variable.name, &variable.value)))
            .env(EXEC_INFO, request)
            .stdin(inherited(interactive))
            .stdout(Stdio::piped())
            .stderr(if interactive { Stdio::inherit() } else { Stdio::piped() })
            .kill_on_drop(true)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(source) => {
                let mut what = format!("failed to start: {source}");
                if source.kind() == io::ErrorKind::NotFound && !install_hint.is_empty() {
                    what = format!("{what}\n\n{install_hint}");
                }
                let kind = ErrorKind::InvalidArgument;
                return Err(self.error(kind, &what).with_source(source));
            }
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let read = async {
            let (mut output, mut complaint) = (Vec::new(), Vec::new());
            let output_read = async {
                match stdout {
                    Some(pipe) => pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut output).await,
                    None => Ok(0),
                }
            };
            let complaint_read = async {
                match stderr {
                    Some(pipe) => pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut complaint).await,
                    None => Ok(0),
                }
            };
            tokio::try_join!(output_read, complaint_read)?;
            let status = child.wait().await?;
            Ok::<_, io::Error>((status, output, complaint))
        };
        let (status, output, complaint) =
            read.await.map_err(|source| self.failed("failed to be read").with_source(source))?;
        if !status.success() {
            let start = complaint.len().saturating_sub(QUOTED_BYTES_MAX);
            let complaint = String::from_utf8_lossy(&complaint[start..]);
            return Err(self.failed(&format!("ended with {status}: {}", complaint.trim())));
        }
        self.read(&output)
    }

    /// Reads the output of the plugin. The output itself is a secret and is part of no error.
    fn read(&self, output: &[u8]) -> Result<Credential> {
        let response: Response = serde_json::from_slice(output)
            .map_err(|_| self.failed("returned something else than an ExecCredential in JSON"))?;
        if response.kind != "ExecCredential" || response.api_version != self.exec.api_version {
            return Err(self.failed(&format!(
                "returned {:?} in version {:?}, and its apiVersion is {:?}",
                response.kind, response.api_version, self.exec.api_version
            )));
        }
        let status = response.status.ok_or_else(|| self.failed("returned no status"))?;
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (token, chain, key) = (
            filled(status.token),
            filled(status.client_certificate_data),
            filled(status.client_key_data),
        );
        let pem = match (&chain, &key) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) if token.is_some() => None,
            (None, None) => {
                return Err(self.failed("returned neither a token nor a certificate with its key"));
            }
            _ => return Err(self.failed("returned a certificate or a key without the other")),
        };
        let certificate = match (pem, &self.provider) {
            (Some((chain, key)), Some(provider)) => Some(
                certified(chain.as_bytes(), key.as_bytes(), provider)
                    .map_err(|error| self.failed(error.message().unwrap_or_default()))?,
            ),
            _ => None,
        };
        let header = token
            .map(|token| bearer(token.trim()))
            .transpose()
            .map_err(|_| self.failed("returned a token that is not a header value"))?;
        let expires = filled(status.expiration_timestamp)
            .map(|text| text.parse())
            .transpose()
            .map_err(|_| self.failed("returned an expirationTimestamp that is not a time"))?;
        Ok(Credential { header, certificate, pem: chain, expires })
    }

    fn failed(&self, what: &str) -> Error {
        self.error(ErrorKind::Unauthenticated, what)
    }

    fn error(&self, kind: ErrorKind, what: &str) -> Error {
        let message = format!("the exec plugin {} {what}", self.exec.command);
        Error::new(kind).with_field("kubeconfig").with_message(message).with_retryable(false)
    }
}
