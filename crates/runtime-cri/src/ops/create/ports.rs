//! Published ports of a create.

use std::collections::BTreeSet;

use runtime_core::{Nonce, Result, TcpPortBinding};
use runtime_support::ports::{self, PortReservation};
use tokio::time::Instant;

use super::call;
use crate::error::port_conflict;
use crate::generated as cri;
use crate::model::annotations::port_label;
use crate::model::spec::Plan;
use crate::state::connection::Connection;

/// Binds a free port of the host for each published port.
///
/// The engine does not bind the ports of its sandboxes, because it forwards packets by rules. So a
/// port that can be bound may belong to a sandbox. Each sandbox has its ports as labels, and a list
/// by label finds it while the port is bound: an earlier owner of the port has its sandbox already,
/// or has released the port.
pub(super) async fn reserve_ports(
    connection: &Connection,
    plan: &mut Plan,
    until: Instant,
) -> Result<Option<PortReservation>> {
    if plan.tcp_ports.is_empty() {
        return Ok(None);
    }
    let mut random = ports::random(&Nonce::random()?);
    let range = connection.settings.host_ports.clone();
    let mut reserved = PortReservation::new(range, plan.tcp_ports.len(), &mut random)?;
    let mut free = BTreeSet::new();
    loop {
        let mut taken = None;
        for port in reserved.ports().filter(|port| !free.contains(port)).collect::<Vec<_>>() {
            if count_with_port(connection, port, until).await? == 0 {
                free.insert(port);
            } else {
                taken = Some(port);
                break;
            }
        }
        match taken {
            Some(taken) => reserved.replace(|port| port == taken, &mut random)?,
            None => break,
        }
    }
    let bindings = plan.tcp_ports.iter().zip(reserved.ports());
    let bindings: Vec<_> = bindings
        .map(|(&container_port, host_port)| TcpPortBinding { host_port, container_port })
        .collect();
    plan.set_ports(bindings);
    Ok(Some(reserved))
}

/// Checks that no other sandbox got a port of this one, because a process in another network
/// namespace can bind the same port.
pub(super) async fn check_ports(
    connection: &Connection,
    plan: &Plan,
    until: Instant,
) -> Result<()> {
    for binding in &plan.annotations.ports {
        if count_with_port(connection, binding.host_port, until).await? > 1 {
            return Err(port_conflict(binding.host_port));
        }
    }
    Ok(())
}

/// Returns the number of sandboxes of all scopes that publish a port.
async fn count_with_port(connection: &Connection, port: u16, until: Instant) -> Result<usize> {
    let filter =
        cri::PodSandboxFilter { label_selector: [port_label(port)].into(), ..Default::default() };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    Ok(call(connection, until, request).await?.items.len())
}
