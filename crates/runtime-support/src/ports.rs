//! Reservation of free TCP ports on this host.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddrV4;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use runtime_core::{Error, ErrorKind, Nonce, Result};
use rustix::net::{AddressFamily, SocketType};

/// Default range of published host ports. The range is below the Kubernetes range for NodePort
/// services and below the Linux range for outgoing connections, so the kernel assigns none of these
/// ports to a program that requests any free port.
pub const HOST_PORTS: RangeInclusive<u16> = 20_000..=29_999;

/// Creates a random number generator seeded with the bits of a nonce.
pub fn random(nonce: &Nonce) -> impl FnMut() -> u64 + Send + use<> {
    // The nonce is 128 random bits in hexadecimal, extended by a xorshift generator.
    let bits = nonce.as_str().get(..16).and_then(|bits| u64::from_str_radix(bits, 16).ok());
    let mut state = bits.unwrap_or(1) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Draws `count` random ports of a range that are not in use.
///
/// # Errors
/// `ResourceExhausted` if the range has fewer unused ports.
pub fn draw(
    range: &RangeInclusive<u16>,
    used: &BTreeSet<u16>,
    count: usize,
    random: &mut impl FnMut() -> u64,
) -> Result<Vec<u16>> {
    let mut drawn: Vec<u16> = Vec::with_capacity(count);
    while drawn.len() < count {
        let free =
            ports_from(range, random()).find(|port| !used.contains(port) && !drawn.contains(port));
        drawn.push(free.ok_or_else(|| exhausted(range))?);
    }
    Ok(drawn)
}

/// Iterates over all ports of a range, beginning at a random one.
fn ports_from(range: &RangeInclusive<u16>, random: u64) -> impl Iterator<Item = u16> + use<> {
    let (first, last) = (u64::from(*range.start()), u64::from(*range.end()));
    let size = (last + 1).saturating_sub(first).max(1);
    let port = move |step| u16::try_from(first + (random % size + step) % size).unwrap_or(0);
    (0..size).map(port)
}

fn exhausted(range: &RangeInclusive<u16>) -> Error {
    Error::new(ErrorKind::ResourceExhausted).with_field("tcp_ports").with_message(format!(
        "no free port from {} to {}",
        range.start(),
        range.end()
    ))
}

/// Free TCP ports, each bound on all addresses, so that no other program gets them. Dropping the
/// reservation frees the ports.
///
/// The sockets do not listen: connections are refused, as on an unused port.
#[derive(Debug)]
pub struct PortReservation {
    sockets: Vec<(u16, OwnedFd)>,
    range: RangeInclusive<u16>,
    /// Sockets of replaced ports. They stay bound so that the ports are not drawn again.
    replaced: Vec<OwnedFd>,
}

impl PortReservation {
    /// Reserves `count` random ports of a range.
    ///
    /// # Errors
    /// `ResourceExhausted` if the range has fewer free ports, or if the process may not open that
    /// many files.
    pub fn new(
        range: RangeInclusive<u16>,
        count: usize,
        random: &mut impl FnMut() -> u64,
    ) -> Result<Self> {
        let sockets = (0..count).map(|_| bind_one(&range, random())).collect::<Result<_>>()?;
        Ok(Self { sockets, range, replaced: Vec::new() })
    }

    /// Returns the ports in the order of their reservation.
    pub fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.sockets.iter().map(|(port, _)| *port)
    }

    /// Replaces the ports for which `unwanted` returns `true` by other ports.
    ///
    /// # Errors
    /// The errors of [`new`](Self::new).
    pub fn replace(
        &mut self,
        unwanted: impl Fn(u16) -> bool,
        random: &mut impl FnMut() -> u64,
    ) -> Result<()> {
        for slot in &mut self.sockets {
            if unwanted(slot.0) {
                let (_, replaced) = std::mem::replace(slot, bind_one(&self.range, random())?);
                self.replaced.push(replaced);
            }
        }
        Ok(())
    }
}

/// Binds a free port of the range.
fn bind_one(range: &RangeInclusive<u16>, random: u64) -> Result<(u16, OwnedFd)> {
    for port in ports_from(range, random) {
        match bind(port) {
            Ok(socket) => return Ok((port, socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(Error::new(ErrorKind::ResourceExhausted)
                    .with_field("tcp_ports")
                    .with_message(format!("failed to reserve port {port}"))
                    .with_source(error));
            }
        }
    }
    Err(exhausted(range))
}

fn bind(port: u16) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn reservation_keeps_ports_bound_until_dropped() {
        let mut random = random(&Nonce::random().unwrap());
        let reserved = PortReservation::new(HOST_PORTS, 20, &mut random).unwrap();
        let ports: BTreeSet<u16> = reserved.ports().collect();
        assert_eq!(ports.len(), 20);
        assert!(ports.iter().all(|port| HOST_PORTS.contains(port)), "{ports:?}");
        for &port in &ports {
            assert_eq!(
                TcpListener::bind(("0.0.0.0", port)).unwrap_err().kind(),
                io::ErrorKind::AddrInUse
            );
            assert_eq!(
                TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );
        }
        drop(reserved);
        let some = *ports.first().unwrap();
        TcpListener::bind(("0.0.0.0", some)).unwrap();
    }

    #[test]
    fn draw_returns_unused_ports_of_range() {
        let used = BTreeSet::from([100, 101]);
        let mut random = || 3;
        assert_eq!(draw(&(100..=103), &used, 2, &mut random).unwrap(), [103, 102]);
        let error = draw(&(100..=103), &used, 3, &mut random).unwrap_err();
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::ResourceExhausted, Some("tcp_ports"))
        );
    }

    #[test]
    fn reservation_in_used_range_returns_resource_exhausted() {
        let mut random = random(&Nonce::random().unwrap());
        let taken = PortReservation::new(HOST_PORTS, 1, &mut random).unwrap();
        let port = taken.ports().next().unwrap();
        let error = PortReservation::new(port..=port, 1, &mut random).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn replace_returns_other_ports() {
        let mut random = random(&Nonce::random().unwrap());
        let mut reserved = PortReservation::new(HOST_PORTS, 3, &mut random).unwrap();
        let before: Vec<u16> = reserved.ports().collect();
        reserved.replace(|port| port == before[1], &mut random).unwrap();
        let after: Vec<u16> = reserved.ports().collect();
        assert_eq!((before[0], before[2]), (after[0], after[2]));
        assert!(!before.contains(&after[1]));
    }
}
