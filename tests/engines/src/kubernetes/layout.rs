//! Where the cluster's files are and which ports it listens on.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::WHO;
use crate::site::Site;

/// The name of the node that runs pods. A node that is named by its address needs no resolver,
/// and a kubelet refuses to be told an address on loopback in any other way.
pub const NODE: &str = "127.0.0.1";

/// The namespace in which the tests have their rights.
pub const NAMESPACE: &str = "runtime-test";

/// Everything in the folder of the instance.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(crate) fn of(site: &Site) -> Self {
        Self::at(&site.dir(WHO))
    }

    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The same as text, for command lines and configuration files.
    pub(crate) fn text(&self, name: &str) -> String {
        self.file(name).to_string_lossy().into_owned()
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.file("pki")
    }

    /// Of the cluster's administrator, who may do everything.
    pub(crate) fn admin(&self) -> PathBuf {
        self.kubeconfig("admin")
    }

    /// Of this user.
    pub(crate) fn kubeconfig(&self, name: &str) -> PathBuf {
        self.file(&format!("{name}.kubeconfig"))
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.file("containerd.sock")
    }
}

/// The ports on loopback. They stay the same while the cluster is up: who restarts a part of it
/// finds it where it was.
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
        let mut next = || free.next().context("no four ports from 28000 to 29999 are free");
        Ok(Self { etcd: next()?, etcd_peers: next()?, api: next()?, kubelet: next()? })
    }

    /// Where the API server is.
    pub(crate) fn server(self) -> String {
        format!("https://127.0.0.1:{}", self.api)
    }
}

/// Ports for hollow kubelets.
pub(crate) fn hollow_ports(site: &Site) -> impl Iterator<Item = u16> {
    free_ports(site, 30000)
}

/// Ports that nobody listens on now, out of two thousand. They are below the range that the
/// kernel gives out by itself, so that no stranger gets the port of a part that is being
/// restarted.
fn free_ports(site: &Site, lowest: u16) -> impl Iterator<Item = u16> {
    let first = site.spread() % 2000;
    (0..2000)
        .map(move |step| lowest + u16::try_from((first + step) % 2000).unwrap_or_default())
        .filter(|port| {
            // Hollow kubelets listen on all addresses.
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()
        })
}
