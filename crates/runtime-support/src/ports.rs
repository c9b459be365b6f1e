//! Free ports of this host, held until whoever they are for has them.

use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType};

/// Free TCP ports, each bound on all addresses so that nobody else gets it. They are free again
/// when this is dropped.
///
/// The sockets do not listen: who connects is refused, as if nothing was there.
#[derive(Debug)]
pub struct PortReservation {
    held: Vec<(u16, OwnedFd)>,
    /// Ports that were not wanted. They stay bound so that they do not come again.
    passed_over: Vec<OwnedFd>,
}

impl PortReservation {
    /// Reserves `count` ports.
    ///
    /// # Errors
    /// When there are not so many free ones, or the process may not open so many files.
    pub fn new(count: usize) -> io::Result<Self> {
        let held = (0..count).map(|_| bind()).collect::<io::Result<_>>()?;
        Ok(Self { held, passed_over: Vec::new() })
    }

    /// The ports, in the order in which they were reserved.
    pub fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.held.iter().map(|(port, _)| *port)
    }

    /// Takes other ports in place of those that are not wanted.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn replace(&mut self, unwanted: impl Fn(u16) -> bool) -> io::Result<()> {
        for slot in &mut self.held {
            if unwanted(slot.0) {
                let (_, passed_over) = std::mem::replace(slot, bind()?);
                self.passed_over.push(passed_over);
            }
        }
        Ok(())
    }
}

fn bind() -> io::Result<(u16, OwnedFd)> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
    match SocketAddrV4::try_from(rustix::net::getsockname(&socket)?) {
        Ok(address) => Ok((address.port(), socket)),
        Err(_) => Err(io::Error::other("the socket has no IPv4 address")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn held_ports_are_nobody_elses_until_they_are_let_go() {
        let reserved = PortReservation::new(20).unwrap();
        let ports: BTreeSet<u16> = reserved.ports().collect();
        assert_eq!(ports.len(), 20);
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
    fn what_is_not_wanted_does_not_come_again() {
        let mut reserved = PortReservation::new(3).unwrap();
        let before: Vec<u16> = reserved.ports().collect();
        reserved.replace(|port| port == before[1]).unwrap();
        let after: Vec<u16> = reserved.ports().collect();
        assert_eq!((before[0], before[2]), (after[0], after[2]));
        assert!(!before.contains(&after[1]));
    }
}
