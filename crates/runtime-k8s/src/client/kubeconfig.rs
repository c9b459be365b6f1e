//! The configuration of kubectl: files, credentials, TLS and proxies.
//!
//! kube has types for all of it, and its [`kube::Config`] is what the connections are built from. It
//! is filled in here because reading it with kube loses these things that client-go has:
//!
//! - a file of `KUBECONFIG` that does not exist is skipped, and an empty `current-context` is none;
//! - a kubeconfig that cannot be used is an error also in a pod, whose service account kube would
//!   use instead;
//! - a `null` and an empty string are an absent value in every field;
//! - a `server` without a scheme is a host and a port;
//! - fields that exclude each other are an error, as are two entries with one name;
//! - `NO_PROXY` is about the server, not about the proxy;
//! - a token file ends with a line end, and is read again once its token is refused;
//! - an exec plugin is run once for all requests, TLS included, without blocking a thread of the
//!   executor, and again after a response with 401.
//!
//! `docs/kubeconfig.md` lists every field and the differences from kubectl.

mod credentials;
mod identity;
mod plugin;
mod schema;
mod select;
mod server;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use kube::client::ConfigExt as _;
use runtime_core::Result;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::ServerName;

pub(crate) use self::credentials::{Authorized, Credentials};
use self::credentials::{Kind, TokenFile};
use self::identity::{Identity, Pem};
use self::plugin::{ClusterInfo, Plugin};
use self::schema::{Cluster, User, bad};
use self::select::{Selected, Source};
use crate::client::authorization::{basic, bearer};
use crate::client::environment::Environment;
use crate::client::proxy::Proxy;
use crate::error;

/// The settings of the connections to a cluster.
#[derive(Clone)]
pub(crate) struct Settings {
    /// The server, the namespace and the headers. Its `auth_info` has no credentials and its
    /// `proxy_url` is empty.
    pub(crate) config: kube::Config,
    pub(crate) credentials: Credentials,
    pub(crate) proxy: Option<Arc<Proxy>>,
    /// TLS to the server and to an HTTPS proxy. `None` if neither has it.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Settings {
    /// Reads the configuration. An exec plugin is run.
    ///
    /// # Errors
    /// `InvalidArgument` if the configuration cannot be used; `Unavailable` if there is none;
    /// `Unauthenticated` if the exec plugin fails.
    pub(crate) async fn load(
        path: Option<&Path>,
        context: Option<&str>,
        environment: &Environment,
        connect_timeout: Duration,
    ) -> Result<Self> {
        let settings = {
            let (path, context) = (path.map(Path::to_path_buf), context.map(str::to_owned));
            let environment = environment.clone();
            let read =
                move || match select::select(path.as_deref(), context.as_deref(), &environment)? {
                    Source::Kubeconfig(selected) => {
                        Self::of_kubeconfig(*selected, &environment, connect_timeout)
                    }
                    Source::Pod => Self::of_pod(&environment, connect_timeout),
                };
            tokio::task::spawn_blocking(read).await.map_err(|source| {
                runtime_core::Error::internal("failed to read the kubeconfig").with_source(source)
            })??
        };
        settings.credentials.prepare().await?;
        Ok(settings)
    }

    fn of_kubeconfig(
        selected: Selected,
        environment: &Environment,
        connect_timeout: Duration,
    ) -> Result<Self> {
        let Selected { cluster, user, namespace } = selected;
        let server = server::parse(&cluster.server)?;
        let proxy = match cluster.proxy_url.as_str() {
            "" => Proxy::of_environment(&server.uri, environment)?,
            url => Some(Proxy::of_kubeconfig(url)?),
        };
        let mut config = base(server.uri, connect_timeout);
        if !namespace.is_empty() {
            config.default_namespace = namespace;
        }
        config.disable_compression = cluster.disable_compression;
        config.accept_invalid_certs = cluster.insecure_skip_tls_verify;
        config.tls_server_name = Some(cluster.tls_server_name.clone()).filter(|n| !n.is_empty());
        impersonate(&mut config, &user);
        // A server without TLS has no certificate, and what the kubeconfig has for one is not read.
        let is_secure = has_tls(&config, proxy.as_ref());
        let authority = if is_secure { authority(&cluster, &mut config)? } else { None };
        let mut tls = if is_secure { Some(tls(&config)?) } else { None };
        let provider = tls.as_ref().map(|tls| Arc::clone(tls.crypto_provider()));
        let has_certificate = identify(&user, tls.as_mut())?;
        let kind = kind(&user, server.user, has_certificate, || {
            let exec = user.exec.clone()?;
            let info = ClusterInfo::new(&cluster, authority.as_deref());
            Some(Plugin::new(exec, info, provider.clone()))
        })?;
        if let (Kind::Plugin(plugin), Some(tls)) = (&kind, &mut tls) {
            tls.client_auth_cert_resolver = Arc::new(Identity::Plugin(plugin.issued()));
        }
        if !matches!(kind, Kind::None) && config.cluster_url.scheme() == Some(&Scheme::HTTP) {
            tracing::warn!(
                server = %config.cluster_url,
                "credentials are sent without encryption: the server is not https"
            );
        }
        Self::new(config, kind, proxy, tls)
    }

    fn of_pod(environment: &Environment, connect_timeout: Duration) -> Result<Self> {
        let server = server::of_pod(environment)?;
        let proxy = Proxy::of_environment(&server.uri, environment)?;
        let directory = environment.service_account();
        let mut config = base(server.uri, connect_timeout);
        let namespace = environment.text("POD_NAMESPACE").map(str::to_owned).or_else(|| {
            let text = std::fs::read_to_string(directory.join("namespace")).ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        });
        if let Some(namespace) = namespace {
            config.default_namespace = namespace;
        }
        let cluster = Cluster {
            certificate_authority: directory.join("ca.crt").display().to_string(),
            ..Cluster::default()
        };
        authority(&cluster, &mut config)?;
        let tls = tls(&config)?;
        let kind = Kind::File(TokenFile::read(directory.join("token"), None)?);
        Self::new(config, kind, proxy, Some(tls))
    }

    fn new(
        config: kube::Config,
        kind: Kind,
        proxy: Option<Proxy>,
        tls: Option<ClientConfig>,
    ) -> Result<Self> {
        if let Some(proxy) = &proxy {
            // Checked here, so that it is not an error of each connection.
            proxy.authorization()?;
            tracing::debug!(?proxy, "the API server is reached through a proxy");
        }
        let credentials = Credentials::new(kind);
        let settings =
            Self { config, credentials, proxy: proxy.map(Arc::new), tls: tls.map(Arc::new) };
        settings.server_name()?;
        settings.config.extra_headers_layer().map_err(|source| {
            bad("as, as-uid, as-groups or as-user-extra is not a header value").with_source(source)
        })?;
        Ok(settings)
    }

    /// Returns the name that the certificate of the server has to be for. `None` without TLS.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not a name.
    pub(crate) fn server_name(&self) -> Result<Option<ServerName<'static>>> {
        let config = &self.config;
        if config.cluster_url.scheme() != Some(&Scheme::HTTPS) {
            return Ok(None);
        }
        let name = match (&config.tls_server_name, config.cluster_url.host()) {
            (Some(name), _) => ServerName::try_from(name.clone())
                .map_err(|source| bad("tls-server-name is not a name").with_source(source))?,
            // An IPv6 address is in brackets.
            (None, host) => host
                .map(|host| host.trim_matches(['[', ']']).to_owned())
                .and_then(|host| ServerName::try_from(host).ok())
                .ok_or_else(|| bad("server has no host"))?,
        };
        Ok(Some(name))
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("server", &self.config.cluster_url)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Settings {
    /// Returns a configuration of kube without credentials.
    pub(crate) fn of(config: kube::Config) -> Self {
        let tls = has_tls(&config, None).then(|| tls(&config).unwrap());
        Self::new(config, Kind::None, None, tls).unwrap()
    }
}

fn base(server: Uri, connect_timeout: Duration) -> kube::Config {
    let mut config = kube::Config::new(server);
    config.connect_timeout = Some(connect_timeout);
    // Each operation has its own deadline and its own retries.
    config.default_retry = false;
    config.read_timeout = None;
    config
}

fn has_tls(config: &kube::Config, proxy: Option<&Proxy>) -> bool {
    config.cluster_url.scheme() == Some(&Scheme::HTTPS) || proxy.is_some_and(Proxy::is_encrypted)
}

fn tls(config: &kube::Config) -> Result<ClientConfig> {
    config.rustls_client_config().map_err(error::from_client)
}

/// Reads the certificate authority of a cluster into a configuration. Returns its PEM.
fn authority(cluster: &Cluster, config: &mut kube::Config) -> Result<Option<Vec<u8>>> {
    let pem = Pem::of(&cluster.certificate_authority_data.0, &cluster.certificate_authority);
    let Some(pem) = pem else { return Ok(None) };
    if cluster.insecure_skip_tls_verify {
        return Err(bad("has a certificate authority and insecure-skip-tls-verify"));
    }
    let bytes = pem.read("certificate-authority")?;
    let certificates = identity::certificates(&bytes, "certificate-authority")?;
    config.root_cert = Some(certificates.iter().map(|der| der.to_vec()).collect());
    if let Pem::File(path) = pem {
        // It is read again when the authority is replaced.
        config.root_cert_file = Some(path);
    }
    Ok(Some(bytes))
}

/// Sets the client certificate of a user. Returns whether there is one.
fn identify(user: &User, tls: Option<&mut ClientConfig>) -> Result<bool> {
    let chain = Pem::of(&user.client_certificate_data.0, &user.client_certificate);
    let key = Pem::of(&user.client_key_data.0, &user.client_key);
    let (Some(chain), Some(key), Some(tls)) = (chain, key, tls) else { return Ok(false) };
    let provider: Arc<CryptoProvider> = Arc::clone(tls.crypto_provider());
    tls.client_auth_cert_resolver = Arc::new(Identity::read(chain, key, &provider)?);
    Ok(true)
}

/// Returns the credentials of a user. A plugin is used only without other credentials.
fn kind(
    user: &User,
    in_server: Option<(String, String)>,
    has_certificate: bool,
    plugin: impl FnOnce() -> Option<Plugin>,
) -> Result<Kind> {
    let malformed = |field| move |_| bad(format!("{field} is not a header value"));
    let token = match user.token.trim() {
        "" => None,
        token => Some(bearer(token).map_err(malformed("token"))?),
    };
    if !user.username.is_empty() {
        let header = basic(&user.username, &user.password);
        return Ok(Kind::Fixed(header.map_err(malformed("username"))?));
    }
    if !user.token_file.is_empty() {
        return Ok(Kind::File(TokenFile::read(user.token_file.clone().into(), token)?));
    }
    if let Some(token) = token {
        return Ok(Kind::Fixed(token));
    }
    if !has_certificate && let Some(plugin) = plugin() {
        return Ok(Kind::Plugin(Box::new(plugin)));
    }
    match in_server {
        Some((user, password)) => {
            Ok(Kind::Fixed(basic(&user, &password).map_err(malformed("server"))?))
        }
        None => Ok(Kind::None),
    }
}

fn impersonate(config: &mut kube::Config, user: &User) {
    let filled = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let info = &mut config.auth_info;
    info.impersonate = filled(&user.impersonate);
    info.impersonate_uid = filled(&user.impersonate_uid);
    info.impersonate_groups = Some(user.impersonate_groups.clone()).filter(|g| !g.is_empty());
    if !user.impersonate_extra.is_empty() {
        let extra = user.impersonate_extra.iter();
        let extra = extra.map(|(key, values)| (key.clone(), values.clone().unwrap_or_default()));
        info.impersonate_user_extra = Some(extra.collect());
    }
}
