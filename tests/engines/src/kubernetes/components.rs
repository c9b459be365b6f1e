//! Components of the cluster: command lines and health checks.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;
use ureq::Agent;

use super::binaries::Binaries;
use super::layout::{Layout, NODE, Ports};
use super::pki::Identity;

/// Process of the cluster that can be killed, frozen and restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Component {
    /// The store of the API server.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers, which evict pods of lost nodes and collect garbage.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The kubelet of the node.
    Kubelet,
    /// The container engine of the node.
    Containerd,
}

impl Component {
    /// All components in the order of their dependencies.
    pub const ALL: [Self; 6] = [
        Self::Containerd,
        Self::Etcd,
        Self::ApiServer,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Kubelet,
    ];

    /// Returns the name of the program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Containerd => "containerd",
        }
    }

    /// Returns true for components in the node's mount namespace.
    pub(crate) fn is_on_node(self) -> bool {
        matches!(self, Self::Kubelet | Self::Containerd)
    }

    /// Returns additional environment variables.
    pub(crate) fn environment(self) -> Vec<(String, String)> {
        match self {
            // In some virtual machines the kubelet requests its name from a cloud's metadata
            // service, which takes five seconds on a closed network.
            Self::Kubelet => vec![("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())],
            _ => Vec::new(),
        }
    }

    /// Checks the health of a running component.
    pub(crate) fn probe(self, layout: &Layout, ports: Ports) -> Result<()> {
        match self {
            Self::Etcd => etcd_health(ports.etcd),
            Self::ApiServer => super::kubectl::admin(layout)?
                .arguments(["get", "--raw", "/readyz"])
                .run()
                .map(drop),
            Self::Kubelet => connect(ports.kubelet),
            // They have no port; their effect is visible in the API.
            Self::ControllerManager | Self::Scheduler => Ok(()),
            // The daemon of the instance is checked separately.
            Self::Containerd => Ok(()),
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn connect(port: u16) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    Ok(())
}

fn etcd_health(port: u16) -> Result<()> {
    let text = Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(2)))
        // The server is on this machine and needs no proxy.
        .proxy(None)
        .build()
        .new_agent()
        .get(format!("http://127.0.0.1:{port}/health"))
        .call()?
        .body_mut()
        .read_to_string()?;
    anyhow::ensure!(text.contains("\"true\""), "etcd returned {text}");
    Ok(())
}

/// Input of the command lines.
pub(crate) struct Parts<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) ports: Ports,
    pub(crate) binaries: &'a Binaries,
    /// The API server's certificate as a server.
    pub(crate) server: &'a Identity,
    /// The API server's certificate as a client of the kubelet.
    pub(crate) to_kubelet: &'a Identity,
    /// The private and the public key of service account tokens.
    pub(crate) token_keys: (String, String),
    /// Addresses for services. They are not routed, because the node has no proxy.
    pub(crate) service_range: String,
}

impl Parts<'_> {
    /// Returns the command line of a component; that of containerd is in the instance's plan.
    pub(crate) fn command(&self, component: Component) -> Result<Vec<String>> {
        let arguments = match component {
            Component::Etcd => self.etcd(),
            Component::ApiServer => self.api_server(),
            Component::ControllerManager => self.controller_manager(),
            Component::Scheduler => self.scheduler(),
            Component::Kubelet => self.kubelet(),
            Component::Containerd => anyhow::bail!("containerd is started with the instance"),
        };
        let program = match component {
            Component::Etcd => "/usr/bin/etcd".to_owned(),
            _ => self.binaries.path(component.name()),
        };
        Ok(std::iter::once(program).chain(arguments).collect())
    }

    fn etcd(&self) -> Vec<String> {
        let clients = format!("http://127.0.0.1:{}", self.ports.etcd);
        let peers = format!("http://127.0.0.1:{}", self.ports.etcd_peers);
        vec![
            "--name=test".to_owned(),
            format!("--data-dir={}", self.layout.text("etcd")),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=test={peers}"),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
        ]
    }

    fn api_server(&self) -> Vec<String> {
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let authority = path(&super::pki::certificate(&self.layout.pki()));
        vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.ports.etcd),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.ports.api),
            format!("--cert-dir={}", self.layout.text("pki")),
            format!("--tls-cert-file={}", path(&self.server.certificate)),
            format!("--tls-private-key-file={}", path(&self.server.key)),
            format!("--client-ca-file={authority}"),
            format!("--kubelet-client-certificate={}", path(&self.to_kubelet.certificate)),
            format!("--kubelet-client-key={}", path(&self.to_kubelet.key)),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", self.token_keys.0),
            format!("--service-account-key-file={}", self.token_keys.1),
            format!("--service-cluster-ip-range={}", self.service_range),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            // Pods cannot reach a server on loopback, so it is not announced.
            "--endpoint-reconciler-type=none".to_owned(),
            // Pods of a lost node are evicted soon, because tests wait for it.
            format!("--default-unreachable-toleration-seconds={POD_EVICTION_SECONDS}"),
            format!("--default-not-ready-toleration-seconds={POD_EVICTION_SECONDS}"),
            "--profiling=false".to_owned(),
        ]
    }

    fn controller_manager(&self) -> Vec<String> {
        let authority = super::pki::certificate(&self.layout.pki());
        vec![
            format!("--kubeconfig={}", self.layout.kubeconfig("controllers").display()),
            format!("--root-ca-file={}", authority.display()),
            format!("--service-account-private-key-file={}", self.token_keys.0),
            "--leader-elect=false".to_owned(),
            "--port=0".to_owned(),
            "--secure-port=0".to_owned(),
            "--kube-api-qps=400".to_owned(),
            "--kube-api-burst=800".to_owned(),
            "--node-monitor-period=1s".to_owned(),
            format!("--node-monitor-grace-period={NODE_GRACE_SECONDS}s"),
            format!("--flex-volume-plugin-dir={}", self.layout.text("volume-plugins")),
            "--profiling=false".to_owned(),
        ]
    }

    fn scheduler(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.layout.kubeconfig("scheduler").display()),
            "--leader-elect=false".to_owned(),
            "--port=0".to_owned(),
            "--secure-port=0".to_owned(),
            "--kube-api-qps=400".to_owned(),
            "--kube-api-burst=800".to_owned(),
            "--profiling=false".to_owned(),
        ]
    }

    fn kubelet(&self) -> Vec<String> {
        let socket = self.layout.containerd_socket();
        vec![
            format!("--config={}", self.layout.text("kubelet.json")),
            format!("--kubeconfig={}", self.layout.kubeconfig("kubelet").display()),
            format!("--cert-dir={}", self.layout.text("pki")),
            format!("--hostname-override={NODE}"),
            "--container-runtime=remote".to_owned(),
            format!("--container-runtime-endpoint=unix://{}", socket.display()),
            // The kubelet's own statistics use another default socket.
            format!("--containerd={}", socket.display()),
            // The default interval of ten seconds is too long for tests that wait for statistics.
            "--housekeeping-interval=1s".to_owned(),
            // Logs the actions on each pod with their times, to explain delays.
            "--v=2".to_owned(),
        ]
    }
}

/// Seconds without a status after which a node is lost. A hollow node reports every ten seconds.
pub(crate) const NODE_GRACE_SECONDS: u32 = 24;

/// Seconds after that until its pods are evicted.
const POD_EVICTION_SECONDS: u32 = 5;
