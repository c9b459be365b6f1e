//! The address of the API server.

use std::net::Ipv6Addr;

use http::Uri;
use runtime_core::Result;

use super::schema::bad;
use crate::client::authorization::user_info;
use crate::client::environment::Environment;

/// The address, and the user and password in it.
pub(super) struct Server {
    pub(super) uri: Uri,
    pub(super) user: Option<(String, String)>,
}

/// Reads the `server` of a cluster.
///
/// Without a scheme it is a host with an optional port, over HTTP. A query and a fragment are left
/// out, a path is kept.
pub(super) fn parse(server: &str) -> Result<Server> {
    let malformed = || bad(format!("server {:?} is neither a URL nor host:port", redacted(server)));
    let without_fragment = server.split('#').next().unwrap_or_default();
    let address = without_fragment.split('?').next().unwrap_or_default();
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => {
            let rest = address.strip_suffix('/').unwrap_or(address);
            if rest.contains('/') {
                return Err(malformed());
            }
            ("http".to_owned(), rest)
        }
    };
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err(malformed());
    }
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (user, authority) = user_info(authority);
    let uri: Uri = format!("{scheme}://{authority}{path}").parse().map_err(|_| malformed())?;
    match uri.authority() {
        Some(authority) if !authority.host().is_empty() && has_valid_port(authority) => {
            Ok(Server { uri, user })
        }
        _ => Err(malformed()),
    }
}

/// Returns whether the port is absent or a number: `Uri` takes `host:` and ports above 65535.
fn has_valid_port(authority: &http::uri::Authority) -> bool {
    let rest = &authority.as_str()[authority.host().len()..];
    rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Returns the address without what may be a password.
fn redacted(server: &str) -> &str {
    server.rsplit_once('@').map_or(server, |(_, rest)| rest)
}

/// Returns the address of the API server from the variables of a pod.
pub(super) fn of_pod(environment: &Environment) -> Result<Server> {
    let host = environment.text("KUBERNETES_SERVICE_HOST").unwrap_or_default();
    let port = environment.text("KUBERNETES_SERVICE_PORT").unwrap_or_default();
    let brackets = host.parse::<Ipv6Addr>().is_ok();
    let host = if brackets { format!("[{host}]") } else { host.to_owned() };
    parse(&format!("https://{host}:{port}"))
}
