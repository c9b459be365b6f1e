//! Bridges and addresses of instances, without collisions.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::run;
use crate::{poll, site::Site};

/// First address and prefix length of an instance's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    octet: u8,
    slot: u8,
}

/// Prefix length: 4094 addresses per instance, because test cases run hundreds of containers.
const PREFIX_LENGTH: u8 = 20;

impl Subnet {
    /// Returns the network of the instance in this slot (0 to 15).
    pub(crate) fn new(octet: u8, slot: u8) -> Self {
        debug_assert!(slot < 16);
        Self { octet, slot }
    }

    /// Returns the host's address with the prefix length.
    pub(crate) fn gateway(self) -> String {
        format!("{}/{PREFIX_LENGTH}", self.host())
    }

    /// Returns the host's address.
    pub(crate) fn host(self) -> String {
        format!("10.{}.{}.1", self.octet, self.slot * 16)
    }

    /// Returns the hardware address of the bridge, locally administered.
    fn bridge(self) -> String {
        format!("02:42:0a:{:02x}:{:02x}:01", self.octet, self.slot * 16)
    }

    /// Returns true if the address is in the network.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        let [a, b, c, _] = address.octets();
        a == 10 && b == self.octet && c / 16 == self.slot
    }

    /// Returns the network with the prefix length.
    pub(crate) fn network(self) -> String {
        format!("10.{}.{}.0/{PREFIX_LENGTH}", self.octet, self.slot * 16)
    }
}

/// Selects the second octet of the site's networks, which no route of the host uses.
pub(crate) fn free_octet(site: &Site) -> Result<u8> {
    let routes = parse_routes(&fs::read_to_string("/proc/net/route")?);
    let first = site.spread() % 127;
    (0..127)
        .map(|step| 128 + u8::try_from((first + step) % 127).unwrap_or_default())
        .find(|octet| {
            let (from, to) = (
                u32::from(Ipv4Addr::new(10, *octet, 0, 0)),
                u32::from(Ipv4Addr::new(10, *octet, 255, 255)),
            );
            !routes.iter().any(|(network, mask)| network & mask <= to && (network | !mask) >= from)
        })
        .context("all networks from 10.128.0.0/16 to 10.254.0.0/16 are already routed")
}

/// Returns network and mask of every route except the default route.
fn parse_routes(text: &str) -> Vec<(u32, u32)> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            // The kernel prints the bytes of an address in memory order.
            let number = |index: usize| {
                u32::from_str_radix(fields.get(index)?, 16).ok().map(u32::swap_bytes)
            };
            Some((number(1)?, number(7)?))
        })
        .filter(|(_, mask)| *mask != 0)
        .collect()
}

/// Creates a bridge with this address, or keeps an existing one.
pub(crate) fn create_bridge(name: &str, subnet: Subnet) -> Result<()> {
    if !exists(name) {
        // A fixed hardware address: otherwise the bridge takes that of one of its ports, which
        // changes when containers start or stop, and neighbours notice it seconds later.
        let address = subnet.bridge();
        run("ip", &["link", "add", "name", name, "address", &address, "type", "bridge"])?;
        run("ip", &["address", "add", &subnet.gateway(), "dev", name])?;
    }
    run("ip", &["link", "set", name, "up"])?;
    Ok(())
}

/// Removes a bridge and its ports, if it exists.
pub(crate) fn remove_bridge(name: &str) -> Result<()> {
    if !exists(name) {
        return Ok(());
    }
    // The other end of a link is removed with its network namespace, asynchronously; a link whose
    // namespace is pinned would stay forever.
    let ports = format!("/sys/class/net/{name}/brif");
    let left = || -> Vec<String> {
        fs::read_dir(&ports)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()
    };
    let quiet = poll::until(Duration::from_secs(5), "the links of the bridge", || {
        Ok(left().is_empty().then_some(()))
    });
    if quiet.is_err() {
        for link in left() {
            // The link may be removed by the kernel concurrently.
            let _ = run("ip", &["link", "delete", &link]);
        }
    }
    run("ip", &["link", "delete", name])?;
    Ok(())
}

fn exists(name: &str) -> bool {
    fs::exists(format!("/sys/class/net/{name}")).unwrap_or(false)
}

/// Returns a free TCP port on loopback, the same every time unless it is in use.
pub(crate) fn stable_port(site: &Site) -> Result<u16> {
    // Below the kernel's ephemeral range.
    let first = site.spread() % 8000;
    (0..8000)
        .map(|step| 20000 + u16::try_from((first + step) % 8000).unwrap_or_default())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no port from 20000 to 27999 is free on loopback")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_parsed_in_network_order() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\n\
                    eth0\t0000800A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\n";
        assert_eq!(parse_routes(text), [(0x0a80_0000, 0xffff_0000)]);
    }

    #[test]
    fn networks_do_not_overlap() {
        assert_eq!(Subnet::new(200, 0).gateway(), "10.200.0.1/20");
        assert_eq!(Subnet::new(200, 15).network(), "10.200.240.0/20");
    }
}
