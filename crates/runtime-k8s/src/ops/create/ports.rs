//! The host ports of a container.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime_core::Result;
use runtime_support::ports;

use crate::state::KubernetesBackend;

/// Host ports of a create, which no other create uses until this one has ended.
pub(super) struct DrawnPorts {
    backend: Arc<KubernetesBackend>,
    ports: Vec<u16>,
}

impl DrawnPorts {
    /// Draws ports that no container of this scope has, or gets from a create in progress. The
    /// scheduler chooses a node on which they are free; if there is none, the pod stays pending.
    pub(super) async fn draw(backend: &Arc<KubernetesBackend>, wanted: usize) -> Result<Self> {
        let mut drawn = Self { backend: Arc::clone(backend), ports: Vec::new() };
        if wanted == 0 {
            return Ok(drawn);
        }
        backend.pods.live().await?;
        let nonce = runtime_core::Nonce::random()?;
        let mut random = ports::random(&nonce);
        let mut all = lock(&backend.drawn_ports);
        let mut used = used_ports(backend);
        used.extend(all.iter());
        drawn.ports = ports::draw(&backend.options.host_ports, &used, wanted, &mut random)?;
        all.extend(&drawn.ports);
        drop(all);
        Ok(drawn)
    }

    /// Returns the ports.
    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }
}

impl Drop for DrawnPorts {
    fn drop(&mut self) {
        let mut all = lock(&self.backend.drawn_ports);
        all.retain(|port| !self.ports.contains(port));
    }
}

fn lock(ports: &Mutex<BTreeSet<u16>>) -> MutexGuard<'_, BTreeSet<u16>> {
    ports.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the host ports of the containers of this scope.
fn used_ports(backend: &KubernetesBackend) -> BTreeSet<u16> {
    let pods = backend.pods.all();
    let ports = pods.iter().filter_map(|seen| seen.pod.container()).flat_map(|c| &c.ports);
    ports.filter_map(|port| port.host_port).collect()
}
