//! Proxies between this host and the API server.
//!
//! [`Proxy`] is the proxy that a kubeconfig or the environment names, [`exceptions`] decides which
//! servers are reached without it, and [`Connector`] opens the connections: direct ones, tunnels
//! (HTTP `CONNECT` and SOCKS5), and those that carry absolute request targets to an HTTP proxy for a
//! server without TLS.

mod connector;
mod exceptions;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use http::{HeaderValue, Uri};
use runtime_core::{Error, Result};

pub(crate) use self::connector::{Connector, Stream};
use crate::client::authorization::{basic, user_info};
use crate::client::environment::Environment;

/// The protocol that is spoken to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Https,
    Socks5,
}

/// A proxy.
#[derive(Clone)]
pub(crate) struct Proxy {
    protocol: Protocol,
    /// Without brackets.
    host: String,
    port: u16,
    user: Option<(String, String)>,
}

impl Proxy {
    /// Reads the `proxy-url` of a cluster. It holds for every server: `NO_PROXY` does not count.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not the URL of an HTTP, HTTPS or SOCKS5 proxy.
    pub(crate) fn of_kubeconfig(url: &str) -> Result<Self> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let is_known = matches!(scheme.as_deref(), Some("http" | "https" | "socks5"));
        is_known.then(|| Self::parse(url)).flatten().ok_or_else(|| {
            Error::invalid("kubeconfig", "proxy-url is not an http, https or socks5 URL of a proxy")
        })
    }

    /// Returns the proxy that the environment has for a server.
    ///
    /// # Errors
    /// `InvalidArgument` if the variable does not name a proxy.
    pub(crate) fn of_environment(server: &Uri, environment: &Environment) -> Result<Option<Self>> {
        let names = match server.scheme_str() {
            Some("https") => ["HTTPS_PROXY", "https_proxy"],
            _ => ["HTTP_PROXY", "http_proxy"],
        };
        let Some(value) = environment.first(&names) else { return Ok(None) };
        let no_proxy = environment.first(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
        if exceptions::is_direct(server, no_proxy) {
            return Ok(None);
        }
        // A CGI program gets the header `Proxy` of its caller in this variable.
        if names.contains(&"HTTP_PROXY") && environment.os("REQUEST_METHOD").is_some() {
            return Err(Error::invalid("HTTP_PROXY", "is not used by CGI programs"));
        }
        let is_url = value.split_once("://").is_some_and(|(scheme, _)| {
            matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https" | "socks5" | "socks5h")
        });
        let proxy =
            if is_url { Self::parse(value) } else { Self::parse(&format!("http://{value}")) };
        proxy.map(Some).ok_or_else(|| {
            let message = format!("is neither a URL nor host:port of a proxy for {server}");
            Error::invalid(names[0], message)
        })
    }

    fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (protocol, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Protocol::Http, 80),
            "https" => (Protocol::Https, 443),
            "socks5" | "socks5h" => (Protocol::Socks5, 1080),
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        let (user, authority) = user_info(authority);
        let authority: http::uri::Authority = authority.parse().ok()?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = match &authority.as_str()[authority.host().len()..] {
            "" | ":" => default_port,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        (!host.is_empty()).then_some(Self { protocol, host, port, user })
    }

    /// Returns whether the connection to the proxy itself is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.protocol == Protocol::Https
    }

    /// Returns whether requests to a server without TLS are sent to the proxy itself.
    pub(crate) fn takes_requests(&self) -> bool {
        self.protocol != Protocol::Socks5
    }

    /// Returns the header that an HTTP proxy is sent, if it is sent a user.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no header for the user and the password.
    pub(crate) fn authorization(&self) -> Result<Option<HeaderValue>> {
        let Some((user, password)) = &self.user else { return Ok(None) };
        basic(user, password)
            .map(Some)
            .map_err(|_| Error::invalid("kubeconfig", "the user of the proxy is malformed"))
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { protocol, host, port, user: _ } = self;
        write!(f, "Proxy({protocol:?} {host} {port})")
    }
}

impl std::fmt::Display for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}
