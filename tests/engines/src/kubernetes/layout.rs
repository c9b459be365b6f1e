//! Files and ports of the cluster.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::LOG_NAME;
use crate::site::Site;

/// Name of the real node. A node that is named by its address needs no resolver, and a kubelet
/// accepts a loopback address only in this way.
pub const NODE: &str = "127.0.0.1";

/// Namespace in which the tests have their rights.
pub const NAMESPACE: &str = "runtime-test";

/// Paths in the instance's directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(crate) fn of(site: &Site) -> Self {
        Self::at(&site.dir(LOG_NAME))
    }

    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns the path as text, for command lines and configuration files.
    pub(crate) fn text(&self, name: &str) -> String {
        self.file(name).to_string_lossy().into_owned()
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.file("pki")
    }

    /// Returns the kubeconfig of the administrator.
    pub(crate) fn admin(&self) -> PathBuf {
        self.kubeconfig("admin")
    }

    /// Returns the kubeconfig of a user.
    pub(crate) fn kubeconfig(&self, name: &str) -> PathBuf {
        self.file(&format!("{name}.kubeconfig"))
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.file("containerd.sock")
    }
}

/// Ports on loopback. They are constant while the cluster is up, so that restarted components are
/// reachable.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) etcd: u16,
    pub(crate) etcd_peers: u16,
    pub(crate) api: u16,
    pub(crate) kubelet: u16,
}

impl Ports {
    pub(crate) fn choose(site: &Site) -> Result<Self> {
        let mut free = free_ports(site, 28000);
        let mut next = || free.next().context("fewer than four ports from 28000 to 29999 are free");
        Ok(Self { etcd: next()?, etcd_peers: next()?, api: next()?, kubelet: next()? })
    }

    /// Returns the URL of the API server.
    pub(crate) fn server(self) -> String {
        format!("https://127.0.0.1:{}", self.api)
    }
}

/// Iterates over ports for hollow kubelets.
pub(crate) fn hollow_ports(site: &Site) -> impl Iterator<Item = u16> {
    free_ports(site, 30000)
}

/// Iterates over unused ports, out of two thousand. They are below the kernel's ephemeral range, so
/// that no other process is assigned the port of a component that is being restarted.
fn free_ports(site: &Site, lowest: u16) -> impl Iterator<Item = u16> {
    let first = site.spread() % 2000;
    (0..2000)
        .map(move |step| lowest + u16::try_from((first + step) % 2000).unwrap_or_default())
        .filter(|port| {
            // Hollow kubelets listen on all addresses.
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()
        })
}
