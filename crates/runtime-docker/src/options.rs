//! Where the engine is: options, `DOCKER_HOST`, docker contexts.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use runtime_core::{Deadlines, Error, ErrorKind, Result, Scope};
use runtime_support::docker_config_dir;
use runtime_support::locality::Locality;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// How to connect to an engine.
///
/// Where the engine is is decided as Docker's command line does it: [`host`](Self::host), then
/// [`context`](Self::context), then `DOCKER_HOST`, then `DOCKER_CONTEXT`, then the current context
/// of the configuration file, then the default socket.
///
/// With `DOCKER_HOST`, `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH` say whether and how to use TLS.
/// `DOCKER_TLS` without the first is refused where it would matter: TLS without verification is not
/// offered. `DOCKER_API_VERSION` is not read: the version of the API is agreed with the engine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DockerOptions {
    /// Whose containers are made and seen.
    pub scope: Scope,
    /// `unix://PATH`, `tcp://HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`.
    pub host: Option<String>,
    /// The name of a docker context.
    pub context: Option<String>,
    /// A folder with `ca.pem`, for TLS with [`host`](Self::host), and with `cert.pem` and `key.pem` for
    /// an engine that wants a certificate of us. The engine's certificate is always verified.
    pub cert_path: Option<PathBuf>,
    /// How long the operations may take.
    pub deadlines: Deadlines,
}

impl DockerOptions {
    /// The engine that Docker's command line would use.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self { scope, host: None, context: None, cert_path: None, deadlines: Deadlines::default() }
    }

    /// Connects to this host.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Connects to the engine of this docker context.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }

    /// Uses TLS with the certificates in this folder.
    #[must_use]
    pub fn cert_path(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cert_path = Some(folder.into());
        self
    }

    /// Sets how long the operations may take.
    #[must_use]
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Where the engine is, by these options and the process's environment.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        self.resolve(&Environment { variable: &|name| std::env::var_os(name) })
    }

    fn resolve(&self, environment: &Environment<'_>) -> Result<Endpoint> {
        // It would be the current directory.
        if self.cert_path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            return Err(Error::invalid("cert_path", "names no directory"));
        }
        if let Some(host) = &self.host {
            if self.context.is_some() {
                return Err(Error::invalid("context", "cannot be combined with host"));
            }
            let tls = self.cert_path.as_deref().map(TlsFiles::all_of);
            return Endpoint::parse(host, tls, "the option host", "host");
        }
        if let Some(context) = &self.context {
            return self.of_context(context, "the option context", environment);
        }
        if let Some(host) = environment.text("DOCKER_HOST") {
            return self.of_variable("DOCKER_HOST", &host, environment);
        }
        if let Some(context) = environment.text("DOCKER_CONTEXT") {
            return self.of_context(&context, "DOCKER_CONTEXT", environment);
        }
        let config: ConfigFile = match environment.config_dir() {
            Some(directory) => read_json(&directory.join("config.json"))?,
            None => ConfigFile::default(),
        };
        if let Some(context) = config.current_context.filter(|context| !context.is_empty()) {
            return self.of_context(&context, "the current docker context", environment);
        }
        self.default_endpoint(environment)
    }

    fn default_endpoint(&self, environment: &Environment<'_>) -> Result<Endpoint> {
        let is_set = |name: &&&str| environment.text(name).is_some();
        match ["DOCKER_TLS_VERIFY", "DOCKER_TLS"].iter().find(is_set) {
            Some(variable) => self.of_variable(variable, DEFAULT_TLS_HOST, environment),
            None => Endpoint::parse(DEFAULT_HOST, None, "the default", "host"),
        }
    }

    /// Returns the endpoint at the host that this variable gives.
    fn of_variable(
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
        let plain = endpoint.tls.is_none() && matches!(endpoint.place, Place::Tcp { .. });
        // Docker's command line takes this for TLS. In plain text the engine would be told secrets.
        if plain && environment.text("DOCKER_TLS").is_some() {
            return Err(Error::invalid(
                "DOCKER_TLS",
                "asks for TLS without verification, which is not offered; DOCKER_TLS_VERIFY asks \
                 for it with",
            ));
        }
        Ok(endpoint)
    }

    /// As Docker's clients have it: `DOCKER_TLS_VERIFY` with whatever value asks for TLS, and
    /// `DOCKER_CERT_PATH` says where the certificates are.
    fn env_tls(&self, environment: &Environment<'_>) -> Result<Option<TlsFiles>> {
        if let Some(folder) = &self.cert_path {
            return Ok(Some(TlsFiles::all_of(folder)));
        }
        if environment.text("DOCKER_TLS_VERIFY").is_none() {
            return Ok(None);
        }
        let folder = environment.path("DOCKER_CERT_PATH").or_else(|| environment.config_dir());
        folder.map(|folder| Some(TlsFiles::all_of(&folder))).ok_or_else(|| {
            Error::invalid(
                "DOCKER_TLS_VERIFY",
                "needs certificates, and none of DOCKER_CERT_PATH, DOCKER_CONFIG and HOME is set",
            )
        })
    }

    fn of_context(
        &self,
        name: &str,
        source: &str,
        environment: &Environment<'_>,
    ) -> Result<Endpoint> {
        if name == "default" {
            return match environment.text("DOCKER_HOST") {
                Some(host) => self.of_variable("DOCKER_HOST", &host, environment),
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
                format!("there is no docker context {name:?} in {}", contexts.display()),
            ));
        }
        let meta: ContextFile = read_json(&file)?;
        let Some(docker) = meta.endpoints.docker else {
            return Err(Error::invalid("context", format!("{source} has no docker endpoint")));
        };
        let tls = TlsFiles::of(&contexts.join("tls").join(&id).join("docker"));
        // Docker's command line takes this for TLS also where there are no certificates.
        if docker.skip_tls_verify {
            return Err(Error::invalid(
                "context",
                format!("{source} asks for TLS without verification, which is not offered"),
            ));
        }
        Endpoint::parse(&docker.host, tls, &source, "context")
    }
}

/// The file names of the engines' executables.
const PROGRAMS: &[&str] = &["dockerd", "podman"];

/// What Docker's command line takes when nothing says otherwise.
const DEFAULT_HOST: &str = "unix://";
/// Socket of `unix://` without a path.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// What it takes instead if a variable asks for TLS.
const DEFAULT_TLS_HOST: &str = "tcp://localhost:2376";

/// Where an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    place: Place,
    tls: Option<TlsFiles>,
    authority: String,
    base_path: String,
    /// What said so.
    source: String,
}

/// What to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp { host: String, port: u16 },
}

/// The certificates of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// The authority that signed the engine's certificate.
    pub(crate) ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// The files of a folder: the authority, there or not, and our certificate with its key where
    /// there is either. An engine may want none of us, and Docker's command line goes on without.
    fn all_of(folder: &Path) -> Self {
        let client = (folder.join("cert.pem"), folder.join("key.pem"));
        Self {
            ca: Some(folder.join("ca.pem")),
            client: (client.0.exists() || client.1.exists()).then_some(client),
        }
    }

    /// Those files of a folder that are there; `None` when there are none.
    fn of(folder: &Path) -> Option<Self> {
        let there = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let files = Self { ca: there("ca.pem"), client: there("cert.pem").zip(there("key.pem")) };
        (files.ca.is_some() || files.client.is_some()).then_some(files)
    }
}

impl Endpoint {
    fn parse(host: &str, tls: Option<TlsFiles>, source: &str, field: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(field, format!("{host:?}: {why}"));
        let host = host.trim();
        if host.is_empty() {
            return Err(bad("is empty"));
        }
        // As Docker's command line has it, an address alone is one of TCP, and a socket without a
        // path is the default one.
        let (scheme, rest) = host.split_once("://").unwrap_or(("tcp", host));
        if rest == host && host.starts_with('/') {
            return Err(bad("is a path; a socket is unix:// and its path"));
        }
        let (tls, port) = match scheme {
            "unix" if rest.contains("://") => return Err(bad("has two schemes")),
            "unix" => {
                let rest = if rest.is_empty() { DEFAULT_SOCKET } else { rest };
                return Ok(Self {
                    place: Place::Unix(rest.into()),
                    tls: None,
                    // What Docker's own client sends; some engines refuse a host with a slash.
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
                    format!("{host:?}: {scheme}:// is not offered; unix://, tcp://, http:// and https:// are"),
                ));
            }
            _ => return Err(bad("is none of unix://, tcp://, http:// and https://")),
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
        .map_err(|_| bad("is no host with or without a port"))?;
        if parsed.as_str().contains('@') {
            return Err(bad("carries a user, which is not offered"));
        }
        let port = match parsed.port() {
            Some(port) if port.as_u16() == 0 => return Err(bad("the port is 0")),
            Some(port) => port.as_u16(),
            None if parsed.as_str() != parsed.host() => return Err(bad("the port is no number")),
            None => port,
        };
        let host = parsed.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self {
            authority: format!("{}:{port}", parsed.host()),
            place: Place::Tcp { host, port },
            tls,
            base_path: base_path.trim_end_matches('/').to_owned(),
            source: source.to_owned(),
        })
    }

    pub(crate) const fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) const fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    /// Whether the engine is behind a Unix socket.
    pub(crate) const fn is_unix(&self) -> bool {
        matches!(self.place, Place::Unix(_))
    }

    /// Proves where the engine runs, as far as this host can.
    pub(crate) async fn locality(&self) -> Locality {
        match &self.place {
            Place::Unix(path) => Locality::of_socket(path, PROGRAMS).await,
            Place::Tcp { .. } => Locality::unknown(),
        }
    }

    /// What goes into the header `Host`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// What goes before every path.
    pub(crate) fn base_path(&self) -> &str {
        &self.base_path
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix(path) => write!(f, "unix://{}", path.display())?,
            Place::Tcp { .. } => {
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

/// Reads a file of Docker's configuration; one that is not there is empty.
fn read_json<T: for<'de> Deserialize<'de> + Default>(path: &Path) -> Result<T> {
    let bad = |source: Box<dyn std::error::Error + Send + Sync>| {
        Error::invalid("context", format!("{} cannot be read", path.display())).with_source(source)
    };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| bad(source.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        // A home folder that is a file, as for users that have none.
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(T::default()),
        Err(error) => Err(bad(error.into())),
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
