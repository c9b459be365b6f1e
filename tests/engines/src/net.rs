//! Bridges and addresses that belong to one instance and collide with nothing.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::run;
use crate::{poll, site::Site};

/// The first address of the network of an instance, and how many bits name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    octet: u8,
    slot: u8,
}

/// 4094 addresses for each instance: hundreds of containers at once are a test case.
const BITS: u8 = 20;

impl Subnet {
    /// The network of the instance in this slot (0 to 15).
    pub(crate) fn new(octet: u8, slot: u8) -> Self {
        debug_assert!(slot < 16);
        Self { octet, slot }
    }

    /// The host's own address in it, with the size of the network.
    pub(crate) fn gateway(self) -> String {
        format!("{}/{BITS}", self.host())
    }

    /// The address of the host in it.
    pub(crate) fn host(self) -> String {
        format!("10.{}.{}.1", self.octet, self.slot * 16)
    }

    /// The hardware address of its bridge, locally administered.
    fn bridge(self) -> String {
        format!("02:42:0a:{:02x}:{:02x}:01", self.octet, self.slot * 16)
    }

    /// Whether an address is in it.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        let [a, b, c, _] = address.octets();
        a == 10 && b == self.octet && c / 16 == self.slot
    }

    /// The network with its size.
    pub(crate) fn network(self) -> String {
        format!("10.{}.{}.0/{BITS}", self.octet, self.slot * 16)
    }
}

/// Chooses the second octet of the site's networks: one that no route of the host touches.
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
        .context("every 10.128.0.0/16 to 10.254.0.0/16 is routed somewhere already")
}

/// Network and mask of every route but the default one.
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

/// Makes a bridge with this address, or leaves the one that is there.
pub(crate) fn create_bridge(name: &str, subnet: Subnet) -> Result<()> {
    if !exists(name) {
        // With an address of its own: else it has that of one of its ports, and another one when a
        // container comes or goes, which the others hear of seconds late.
        let address = subnet.bridge();
        run("ip", &["link", "add", "name", name, "address", &address, "type", "bridge"])?;
        run("ip", &["address", "add", &subnet.gateway(), "dev", name])?;
    }
    run("ip", &["link", "set", name, "up"])?;
    Ok(())
}

/// Removes a bridge if it is there, with what is still plugged into it.
pub(crate) fn remove_bridge(name: &str) -> Result<()> {
    if !exists(name) {
        return Ok(());
    }
    // The far end of a link goes with its network namespace, which the kernel takes down in
    // its own time; a link whose namespace somebody pins would stay for ever.
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
            // It may go by itself between the look and the call.
            let _ = run("ip", &["link", "delete", &link]);
        }
    }
    run("ip", &["link", "delete", name])?;
    Ok(())
}

fn exists(name: &str) -> bool {
    fs::exists(format!("/sys/class/net/{name}")).unwrap_or(false)
}

/// A free TCP port on loopback, the same one every time unless somebody has taken it.
pub(crate) fn stable_port(site: &Site) -> Result<u16> {
    // Below the range that the kernel gives out by itself.
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
    fn routes_are_read_in_network_order() {
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
