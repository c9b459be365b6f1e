//! The servers that are reached without the proxy of the environment.
//!
//! The rules are those of Go's `httpproxy`, which kubectl has.

use std::net::IpAddr;

use http::Uri;

/// Returns whether a server is reached without a proxy: it is on this host, or an entry of `NO_PROXY`
/// matches it.
pub(super) fn is_direct(server: &Uri, no_proxy: &str) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    let port = server.port_u16().unwrap_or(match server.scheme_str() {
        Some("https") => 443,
        _ => 80,
    });
    let address = parse_address(&host);
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    no_proxy.split(',').any(|entry| {
        let entry = entry.trim().to_ascii_lowercase();
        matches(&entry, &host, port, address)
    })
}

fn matches(entry: &str, host: &str, port: u16, address: Option<IpAddr>) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some(network) = parse_network(entry) {
        return address.is_some_and(|address| contains(network, address));
    }
    let (name, entry_port) = split_port(entry);
    if name.is_empty() || entry_port.is_some_and(|entry_port| entry_port != port.to_string()) {
        return false;
    }
    if let Some(entry_address) = parse_address(name) {
        return address == Some(entry_address);
    }
    // A name never matches an address, whose last part may look like a domain.
    if address.is_some() {
        return false;
    }
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    match name.strip_prefix('.') {
        Some(domain) => is_below(host, domain),
        None => host == name || is_below(host, name),
    }
}

fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// Splits `host:port` and `[address]:port`. An address without brackets has no port.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    if let Some(rest) = entry.strip_prefix('[') {
        return match rest.split_once("]:") {
            Some((address, port)) => (address, Some(port).filter(|port| !port.is_empty())),
            None => (entry, None),
        };
    }
    match entry.split_once(':') {
        Some((name, port)) if !port.contains(':') => {
            (name, Some(port).filter(|port| !port.is_empty()))
        }
        _ => (entry, None),
    }
}

/// Parses an address. An IPv4 address that is written as IPv6 is an IPv4 address.
fn parse_address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn parse_network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix) = (address.parse::<IpAddr>().ok()?, prefix.parse().ok()?);
    let most = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= most).then_some((address, prefix))
}

fn contains((network, prefix): (IpAddr, u32), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differing = u32::from(network) ^ u32::from(address);
            differing.leading_zeros() >= prefix
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differing = u128::from(network) ^ u128::from(address);
            differing.leading_zeros() >= prefix
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_matches_as_in_go() {
        for (no_proxy, server, direct) in [
            ("", "https://api.example.com", false),
            ("", "https://localhost:6443", true),
            ("", "https://LOCALHOST:6443", true),
            ("", "https://127.0.0.1:6443", true),
            ("", "https://127.8.9.1:6443", true),
            ("", "https://[::1]:6443", true),
            ("", "https://[::ffff:127.0.0.1]:6443", true),
            ("", "https://localhost.example.com", false),
            ("*", "https://api.example.com", true),
            ("foo,*", "https://api.example.com", true),
            ("*.com", "https://api.example.com", true),
            ("example.com", "https://example.com", true),
            ("example.com", "https://api.example.com", true),
            ("example.com", "https://notexample.com", false),
            ("EXAMPLE.com", "https://API.example.COM", true),
            (".example.com", "https://api.example.com", true),
            (".example.com", "https://example.com", false),
            ("*.example.com", "https://api.example.com", true),
            ("*.example.com", "https://example.com", false),
            ("*example.com", "https://api.example.com", false),
            (" foo , example.com ", "https://api.example.com", true),
            (",,", "https://api.example.com", false),
            ("example.com:6443", "https://api.example.com:6443", true),
            ("example.com:6443", "https://api.example.com", false),
            ("example.com:443", "https://api.example.com", true),
            ("example.com:80", "http://api.example.com", true),
            ("example.com:", "https://api.example.com:1", true),
            (":443", "https://api.example.com", false),
            ("10.1.2.3", "https://10.1.2.3:6443", true),
            ("10.1.2.3:6443", "https://10.1.2.3:6443", true),
            ("10.1.2.3:6444", "https://10.1.2.3:6443", false),
            ("10.0.0.0/8", "https://10.1.2.3:6443", true),
            ("10.0.0.0/8", "https://11.1.2.3:6443", false),
            ("10.1.2.3/8", "https://10.200.0.1", true),
            ("0.0.0.0/0", "https://11.1.2.3", true),
            ("0.0.0.0/0", "https://[2001:db8::1]", false),
            ("10.0.0.0/33", "https://10.1.2.3:6443", false),
            ("2001:db8::/32", "https://[2001:db8::1]:6443", true),
            ("2001:db8::1", "https://[2001:db8::1]:6443", true),
            ("[2001:db8::1]:6443", "https://[2001:db8::1]:6443", true),
            ("[2001:db8::1]:6443", "https://[2001:db8::1]:6444", false),
            ("::ffff:10.1.2.3", "https://10.1.2.3", true),
            ("2.3", "https://10.1.2.3", false),
            (".3", "https://10.1.2.3", false),
        ] {
            let uri: Uri = server.parse().unwrap();
            assert_eq!(is_direct(&uri, no_proxy), direct, "{no_proxy:?} {server}");
        }
    }
}
