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

/// Binds a free port for each one to publish, and holds it.
///
/// The engine does not keep the ports of its sandboxes bound: packets are led to the sandbox by
/// rules. So a port that can be bound may lead to a container. Each sandbox carries its ports as
/// labels, by which the engine is asked while the port is held: whoever held it before has its
/// sandbox already, or has given it up.
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
            if with_port(connection, port, until).await? == 0 {
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

/// Checks that no other sandbox has got a port of this one meanwhile: a process in another network
/// namespace cannot see that a port is held.
pub(super) async fn check_ports(
    connection: &Connection,
    plan: &Plan,
    until: Instant,
) -> Result<()> {
    for binding in &plan.annotations.ports {
        if with_port(connection, binding.host_port, until).await? > 1 {
            return Err(port_conflict(binding.host_port));
        }
    }
    Ok(())
}

/// Returns how many sandboxes publish a port, whatever their scope.
async fn with_port(connection: &Connection, port: u16, until: Instant) -> Result<usize> {
    let filter =
        cri::PodSandboxFilter { label_selector: [port_label(port)].into(), ..Default::default() };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    Ok(call(connection, until, request).await?.items.len())
}
