//! Options, and the endpoint of the engine: `DOCKER_HOST`, docker contexts.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use runtime_core::{Deadlines, Error, ErrorKind, Result, Scope};
use runtime_support::docker_config_dir;
use runtime_support::locality::Locality;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Options of a connection to an engine.
///
/// The endpoint is selected as by Docker's command line: [`host`](Self::host), then
/// [`context`](Self::context), then `DOCKER_HOST`, then `DOCKER_CONTEXT`, then the current context
/// of the configuration file, then the default socket.
///
/// With `DOCKER_HOST`, the variables `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH` configure TLS.
/// `DOCKER_TLS` without `DOCKER_TLS_VERIFY` is refused for TCP, because TLS without verification is
/// not supported. `DOCKER_API_VERSION` is ignored, because the API version is negotiated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DockerOptions {
    /// The scope of the containers.
    pub scope: Scope,
    /// `unix://PATH`, `tcp://HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`.
    pub host: Option<String>,
    /// The name of a docker context.
    pub context: Option<String>,
    /// A directory with `ca.pem`, for TLS with [`host`](Self::host), and with `cert.pem` and
    /// `key.pem` for an engine that requires a client certificate. The engine's certificate is
    /// always verified.
    pub cert_path: Option<PathBuf>,
    /// The deadlines of the operations.
    pub deadlines: Deadlines,
}

impl DockerOptions {
    /// Creates options for the engine that Docker's command line uses.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self { scope, host: None, context: None, cert_path: None, deadlines: Deadlines::default() }
    }

    /// Sets the host.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Sets the docker context.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// Enables TLS with the certificates in this directory.
    #[must_use]
    pub fn cert_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.cert_path = Some(path.into());
        self
    }

    /// Sets the deadlines of the operations.
    #[must_use]
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Selects the endpoint by these options and the environment of the process.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        self.resolve(&Environment { variable: &|name| std::env::var_os(name) })
    }

    fn resolve(&self, environment: &Environment<'_>) -> Result<Endpoint> {
        // An empty path would be the current directory.
        if self.cert_path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            return Err(Error::invalid("cert_path", "is empty"));
        }
        if let Some(host) = &self.host {
            if self.context.is_some() {
                return Err(Error::invalid("context", "cannot be combined with host"));
            }
            let tls = self.cert_path.as_deref().map(TlsFiles::all_of);
            return Endpoint::parse(host, tls, "the option host", "host");
        }
        if let Some(context) = &self.context {
            return self.resolve_context(context, "the option context", environment);
        }
        if let Some(host) = environment.text("DOCKER_HOST") {
            return self.resolve_variable("DOCKER_HOST", &host, environment);
        }
        if let Some(context) = environment.text("DOCKER_CONTEXT") {
            return self.resolve_context(&context, "DOCKER_CONTEXT", environment);
        }
        let config: ConfigFile = match environment.config_dir() {
            Some(directory) => read_json(&directory.join("config.json"))?,
            None => ConfigFile::default(),
        };
        if let Some(context) = config.current_context.filter(|context| !context.is_empty()) {
            return self.resolve_context(&context, "the current docker context", environment);
        }
        self.default_endpoint(environment)
    }

    fn default_endpoint(&self, environment: &Environment<'_>) -> Result<Endpoint> {
        let is_set = |name: &&&str| environment.text(name).is_some();
        match ["DOCKER_TLS_VERIFY", "DOCKER_TLS"].iter().find(is_set) {
            Some(variable) => self.resolve_variable(variable, DEFAULT_TLS_HOST, environment),
            None => Endpoint::parse(DEFAULT_HOST, None, "the default", "host"),
        }
    }

    /// Returns the endpoint of the host in a variable.
    fn resolve_variable(
        &self,
        variable: &str,
        host: &str,
        environment: &Environment<'_>,
    ) -> Result<Endpoint> {
        if host.trim().is_empty() {
            return self.default_endpoint(environment);
        }
        let tls = self.env_tls(environment)?;
        let endpoint = Endpoint::parse(host, tls, variable, variable)?;
        let plain = endpoint.tls.is_none() && matches!(endpoint.address, Address::Tcp { .. });
        // Docker's command line uses TLS then. Without TLS, secrets would be sent in plain text.
        if plain && environment.text("DOCKER_TLS").is_some() {
            return Err(Error::invalid(
                "DOCKER_TLS",
                "TLS without verification is not supported; DOCKER_TLS_VERIFY enables it with \
                 verification",
            ));
        }
        Ok(endpoint)
    }

    /// Returns the certificates if any value of `DOCKER_TLS_VERIFY` enables TLS, as in Docker's
    /// clients. They are in `DOCKER_CERT_PATH`.
    fn env_tls(&self, environment: &Environment<'_>) -> Result<Option<TlsFiles>> {
        if let Some(dir) = &self.cert_path {
            return Ok(Some(TlsFiles::all_of(dir)));
        }
        if environment.text("DOCKER_TLS_VERIFY").is_none() {
            return Ok(None);
        }
        let dir = environment.path("DOCKER_CERT_PATH").or_else(|| environment.config_dir());
        dir.map(|dir| Some(TlsFiles::all_of(&dir))).ok_or_else(|| {
            Error::invalid(
                "DOCKER_TLS_VERIFY",
                "requires certificates, but none of DOCKER_CERT_PATH, DOCKER_CONFIG and HOME is set",
            )
        })
    }

    fn resolve_context(
        &self,
        name: &str,
        source: &str,
        environment: &Environment<'_>,
    ) -> Result<Endpoint> {
        if name == "default" {
            return match environment.text("DOCKER_HOST") {
                Some(host) => self.resolve_variable("DOCKER_HOST", &host, environment),
                None => self.default_endpoint(environment),
            };
        }
        let source = format!("{source} {name:?}");
        let id = hex(&Sha256::digest(name.as_bytes()));
        let Some(directory) = environment.config_dir() else {
            return Err(Error::invalid(
                "context",
                format!("{source}: neither DOCKER_CONFIG nor HOME is set"),
            ));
        };
        let contexts = directory.join("contexts");
        let file = contexts.join("meta").join(&id).join("meta.json");
        if !file.is_file() {
            return Err(Error::invalid(
                "context",
                format!("no docker context {name:?} in {}", contexts.display()),
            ));
        }
        let meta: ContextFile = read_json(&file)?;
        let Some(docker) = meta.endpoints.docker else {
            return Err(Error::invalid("context", format!("{source} has no docker endpoint")));
        };
        let tls = TlsFiles::existing(&contexts.join("tls").join(&id).join("docker"));
        // Docker's command line uses TLS then, even without certificates.
        if docker.skip_tls_verify {
            return Err(Error::invalid(
                "context",
                format!("{source} disables the verification of TLS, which is not supported"),
            ));
        }
        Endpoint::parse(&docker.host, tls, &source, "context")
    }
}

/// The file names of the engines' executables.
const PROGRAMS: &[&str] = &["dockerd", "podman"];

/// The default of Docker's command line.
const DEFAULT_HOST: &str = "unix://";
/// The socket of `unix://` without a path.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// The default if a variable enables TLS.
const DEFAULT_TLS_HOST: &str = "tcp://localhost:2376";

/// The endpoint of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    address: Address,
    tls: Option<TlsFiles>,
    authority: String,
    base_path: String,
    /// The option, variable or file that selected it.
    source: String,
}

/// The address of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp { host: String, port: u16 },
}

/// The certificates of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The CA certificate of the engine.
    pub(crate) ca: Option<PathBuf>,
    /// The client certificate and its key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// Returns the files of a directory: the CA certificate, even if it does not exist, and the
    /// client certificate and key, if one of them exists. They are optional, as in Docker's command
    /// line.
    fn all_of(dir: &Path) -> Self {
        let client = (dir.join("cert.pem"), dir.join("key.pem"));
        Self {
            ca: Some(dir.join("ca.pem")),
            client: (client.0.exists() || client.1.exists()).then_some(client),
        }
    }

    /// Returns the existing files of a directory, `None` if there are none.
    fn existing(dir: &Path) -> Option<Self> {
        let file = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        let files = Self { ca: file("ca.pem"), client: file("cert.pem").zip(file("key.pem")) };
        (files.ca.is_some() || files.client.is_some()).then_some(files)
    }
}

impl Endpoint {
    fn parse(host: &str, tls: Option<TlsFiles>, source: &str, field: &str) -> Result<Self> {
        let invalid = |message: &str| Error::invalid(field, format!("{host:?}: {message}"));
        let host = host.trim();
        if host.is_empty() {
            return Err(invalid("is empty"));
        }
        // As in Docker's command line, the default scheme is TCP, and a socket without a path is
        // the default socket.
        let (scheme, rest) = host.split_once("://").unwrap_or(("tcp", host));
        if rest == host && host.starts_with('/') {
            return Err(invalid("is a path; prefix a socket with unix://"));
        }
        let (tls, port) = match scheme {
            "unix" if rest.contains("://") => return Err(invalid("has two schemes")),
            "unix" => {
                let rest = if rest.is_empty() { DEFAULT_SOCKET } else { rest };
                return Ok(Self {
                    address: Address::Unix(rest.into()),
                    tls: None,
                    // The value of Docker's own client. Some engines refuse a host with a slash.
                    authority: "api.moby.localhost".to_owned(),
                    base_path: String::new(),
                    source: source.to_owned(),
                });
            }
            "tcp" => {
                let port = if tls.is_some() { 2376 } else { 2375 };
                (tls, port)
            }
            "http" => (None, 80),
            "https" => (tls.or(Some(TlsFiles { ca: None, client: None })), 443),
            "npipe" | "ssh" | "fd" => {
                return Err(Error::new(ErrorKind::Unsupported).with_field(field).with_message(
                    format!("{host:?}: {scheme}:// is not supported; use unix://, tcp://, http:// or https://"),
                ));
            }
            _ => return Err(invalid("does not begin with unix://, tcp://, http:// or https://")),
        };
        let (authority, base_path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, format!("/{path}")),
            None => (rest, String::new()),
        };
        let parsed: http::uri::Authority = match authority {
            "" => "localhost".parse(),
            // An IPv6 address without a port.
            address if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                format!("[{address}]").parse()
            }
            authority if authority.starts_with(':') => format!("localhost{authority}").parse(),
            authority => authority.parse(),
        }
        .map_err(|_| invalid("is not a host with an optional port"))?;
        if parsed.as_str().contains('@') {
            return Err(invalid("contains a user name, which is not supported"));
        }
        let port = match parsed.port() {
            Some(port) if port.as_u16() == 0 => return Err(invalid("the port is 0")),
            Some(port) => port.as_u16(),
            None if parsed.as_str() != parsed.host() => {
                return Err(invalid("the port is not a number"));
            }
            None => port,
        };
        let host = parsed.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self {
            authority: format!("{}:{port}", parsed.host()),
            address: Address::Tcp { host, port },
            tls,
            base_path: base_path.trim_end_matches('/').to_owned(),
            source: source.to_owned(),
        })
    }

    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) const fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    /// Returns `true` if the address is a Unix socket.
    pub(crate) const fn is_unix(&self) -> bool {
        matches!(self.address, Address::Unix(_))
    }

    /// Determines if the engine is on this host.
    pub(crate) async fn locality(&self) -> Locality {
        match &self.address {
            Address::Unix(path) => Locality::of_socket(path, PROGRAMS).await,
            Address::Tcp { .. } => Locality::unknown(),
        }
    }

    /// Returns the value of the header `Host`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the prefix of every path.
    pub(crate) fn base_path(&self) -> &str {
        &self.base_path
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => write!(f, "unix://{}", path.display())?,
            Address::Tcp { .. } => {
                let scheme = if self.tls.is_some() { "https" } else { "http" };
                write!(f, "{scheme}://{}{}", self.authority, self.base_path)?;
            }
        }
        write!(f, " (from {})", self.source)
    }
}

struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Environment<'_> {
    fn path(&self, name: &str) -> Option<PathBuf> {
        (self.variable)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.variable)(name)
            .map(|value| value.to_string_lossy().into_owned())
            .filter(|value| !value.is_empty())
    }

    fn config_dir(&self) -> Option<PathBuf> {
        docker_config_dir(self.variable)
    }
}

#[derive(Deserialize, Default)]
struct ConfigFile {
    #[serde(rename = "currentContext")]
    current_context: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ContextFile {
    endpoints: ContextEndpoints,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContextEndpoints {
    docker: Option<ContextEndpoint>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct ContextEndpoint {
    host: String,
    #[serde(rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
}

/// Reads a file of Docker's configuration. A missing file is empty.
fn read_json<T: for<'de> Deserialize<'de> + Default>(path: &Path) -> Result<T> {
    let invalid = |source: Box<dyn std::error::Error + Send + Sync>| {
        Error::invalid("context", format!("failed to read {}", path.display())).with_source(source)
    };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| invalid(source.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        // A home directory that is a file, as of users without one.
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(T::default()),
        Err(error) => Err(invalid(error.into())),
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests;
