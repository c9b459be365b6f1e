//! Fake API server, for conditions that no server here can produce: newer versions, admission policies,
//! proxies and balancers that fail.
//!
//! It serves HTTP on loopback and is reached like any server, through a kubeconfig. It has pods, events,
//! Secrets, disruption budgets and nodes with resource versions, watches with bookmarks, JSON patches,
//! deletion with preconditions and grace, and logs. Hooks can refuse, rewrite, delay and lose requests;
//! connections can be frozen and cut. The state of pods is controlled by the test
//! ([`FakeServer::change_pod`]), by a recording of a real server ([`FakeServer::play`]), or by a simple node
//! that acts at once ([`FakeServer::set_node`]).

mod connection;
mod hooks;
mod node;
mod patch;
mod recording;
mod server;
mod store;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use runtime_core::Scope;
use runtime_k8s::KubernetesOptions;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use connection::Switch;
use hooks::Hook;
pub use hooks::{HookId, Reaction, Received, Refusal};
pub use node::FakeNode;
pub(crate) use patch::apply as apply_patch;
pub use recording::{Playback, Recording};
use store::Store;

/// Namespace in the kubeconfig of a fake server.
pub const NAMESPACE: &str = "fake";

/// Name of the one node.
pub const NODE: &str = "node1";

/// Fake API server. It stops when this handle is dropped.
#[derive(Debug)]
pub struct FakeServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    kubeconfig: tempfile::TempPath,
    accepting: JoinHandle<()>,
}

struct Shared {
    version: Value,
    store: Mutex<Store>,
    hooks: Mutex<Vec<(HookId, Hook)>>,
    /// Changes to objects that are sent to the client.
    rewrites: Mutex<Vec<Rewrite>>,
    received: Mutex<Vec<Received>>,
    count: watch::Sender<usize>,
    next_hook: AtomicU64,
    switch: Arc<Switch>,
    has_metrics: bool,
}

/// Function that changes an object.
type Rewrite = Box<dyn Fn(&mut Value) + Send>;

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.switch.cut();
    }
}

impl FakeServer {
    /// Starts a server of a version (`1.36`), with a node that does nothing.
    ///
    /// # Panics
    /// If the server cannot be started.
    pub async fn start(version: &str) -> Self {
        let (major, minor) = version.split_once('.').expect("a version like 1.36");
        let number: u32 = minor.parse().expect("a version like 1.36");
        let shared = Arc::new(Shared {
            version: json!({
                "major": major, "minor": minor, "gitVersion": format!("v{version}.0"),
                "platform": "linux/amd64",
            }),
            store: Mutex::new(Store::new(number)),
            hooks: Mutex::default(),
            rewrites: Mutex::default(),
            received: Mutex::default(),
            count: watch::Sender::new(0),
            next_hook: AtomicU64::new(0),
            switch: Arc::default(),
            has_metrics: false,
        });
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let kubeconfig = kubeconfig(address);
        let accepting = tokio::spawn(server::serve(listener, Arc::clone(&shared)));
        Self { shared, address, kubeconfig, accepting }
    }

    /// Starts a server with a node that runs its pods.
    pub async fn with_node(version: &str, node: FakeNode) -> Self {
        let server = Self::start(version).await;
        server.set_node(node);
        server
    }

    /// Returns the address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns a kubeconfig for the server.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Returns options that connect to the server, with a scope of their own.
    ///
    /// # Panics
    /// If there is no randomness.
    #[must_use]
    pub fn options(&self) -> KubernetesOptions {
        let nonce = runtime_core::Nonce::random().unwrap();
        let scope = Scope::new(format!("fake-{}", &nonce.as_str()[..8])).unwrap();
        KubernetesOptions::new(scope).kubeconfig(self.kubeconfig.to_path_buf())
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock().unwrap()
    }

    // Objects of the cluster.

    /// Returns all pods.
    #[must_use]
    pub fn pods(&self) -> Vec<Value> {
        self.objects("pods")
    }

    /// Returns all objects of a kind, in the plural.
    #[must_use]
    pub fn objects(&self, plural: &str) -> Vec<Value> {
        let store = self.store();
        store.objects.iter().filter(|(key, _)| key.0 == plural).map(|(_, v)| v.clone()).collect()
    }

    /// Returns a pod.
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<Value> {
        self.store().get("pods", NAMESPACE, name).cloned()
    }

    /// Returns the only pod.
    ///
    /// # Panics
    /// If there is none, or more than one.
    #[must_use]
    pub fn only_pod(&self) -> Value {
        let pods = self.pods();
        assert_eq!(pods.len(), 1, "{pods:#?}");
        pods[0].clone()
    }

    /// Returns the name of the only pod.
    ///
    /// # Panics
    /// If there is none, or more than one.
    #[must_use]
    pub fn only_pod_name(&self) -> String {
        store::text(&self.only_pod(), "/metadata/name")
    }

    // Changes by the cluster.

    /// Changes a pod as the cluster does, not as a client: nothing is checked.
    ///
    /// # Panics
    /// If the pod does not exist.
    pub fn change_pod(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut store = self.store();
        let old = store.get("pods", NAMESPACE, name).cloned();
        let old = old.unwrap_or_else(|| panic!("no pod {name}"));
        let mut new = old.clone();
        change(&mut new);
        if new != old {
            store.put("pods", NAMESPACE, new);
            store.settle();
        }
    }

    /// Adds an object of a kind to the namespace, unchanged.
    pub fn add_object(&self, plural: &str, object: Value) {
        self.store().put(plural, NAMESPACE, object);
    }

    /// Changes the node object.
    ///
    /// # Panics
    /// If the node was removed.
    pub fn change_node(&self, change: impl FnOnce(&mut Value)) {
        let mut store = self.store();
        let mut node = store.get("nodes", "", NODE).cloned().unwrap();
        change(&mut node);
        store.put("nodes", "", node);
    }

    /// Deletes a pod as another client does, with a grace.
    ///
    /// # Panics
    /// If the pod does not exist.
    pub fn delete_pod(&self, name: &str, grace: u64) {
        let options = json!({"gracePeriodSeconds": grace});
        self.store().delete("pods", NAMESPACE, name, &options).unwrap();
    }

    /// Removes an object at once, as if from etcd. Returns `true` if it existed.
    pub fn remove_object(&self, plural: &str, name: &str) -> bool {
        let namespace = if plural == "nodes" { "" } else { NAMESPACE };
        self.store().remove(plural, namespace, name).is_some()
    }

    /// Adds a cluster event about a pod.
    pub fn add_event(&self, pod: &str, reason: &str, message: &str) {
        self.store().add_event(NAMESPACE, pod, reason, message);
    }

    /// Adds a line to the log of a pod. The line end is part of it, if it has one.
    pub fn add_log(&self, pod: &str, line: impl Into<Vec<u8>>) {
        let mut store = self.store();
        let lines = store.logs.entry(pod.to_owned()).or_default();
        let time = format!("2026-11-30T01:00:00.{:09}Z", lines.len());
        lines.push((time, line.into()));
        let version = store.version;
        store.changed.send_replace(version);
    }

    /// Replaces the behavior of the node and applies it.
    pub fn set_node(&self, node: FakeNode) {
        let mut store = self.store();
        store.node = Some(node);
        store.settle();
    }

    // Behavior of the server.

    /// Silently removes this field from new pods (`/spec/schedulingGates`).
    pub fn drop_field(&self, pointer: &str) {
        self.store().dropped_fields.push(pointer.to_owned());
    }

    /// Drops all changes: the next watch from an old version, and each open watch, ends with 410.
    pub fn forget_versions(&self) {
        let mut store = self.store();
        store.forgotten = store.version;
        store.changes.clear();
        store.bookmarks.send_modify(|count| *count += 1);
    }

    /// Sends a bookmark on all watches.
    pub fn send_bookmarks(&self) {
        self.store().bookmarks.send_modify(|count| *count += 1);
    }

    /// Adds a hook for all later requests. The newest hook runs first, and the first hook that does not let a
    /// request pass decides.
    pub fn hook(&self, hook: impl FnMut(&Received) -> Reaction + Send + 'static) -> HookId {
        let id = HookId(self.shared.next_hook.fetch_add(1, Ordering::Relaxed));
        self.shared.hooks.lock().unwrap().push((id, Box::new(hook)));
        id
    }

    /// Refuses the requests that match.
    pub fn refuse(
        &self,
        matches: impl Fn(&Received) -> bool + Send + 'static,
        refusal: Refusal,
    ) -> HookId {
        self.hook(move |request| match matches(request) {
            true => Reaction::Refuse(refusal.clone()),
            false => Reaction::Pass,
        })
    }

    /// Removes a hook.
    pub fn unhook(&self, id: HookId) {
        self.shared.hooks.lock().unwrap().retain(|(other, _)| *other != id);
    }

    /// Changes each object that is sent to a client, in responses, lists and watches.
    pub fn rewrite(&self, rewrite: impl Fn(&mut Value) + Send + 'static) {
        self.shared.rewrites.lock().unwrap().push(Box::new(rewrite));
    }

    // Connections.

    /// Stops forwarding on the open connections, in both directions; they stay open.
    pub fn freeze_open_connections(&self) {
        self.shared.switch.freeze(false);
    }

    /// Stops forwarding on all connections, including those that are opened later.
    pub fn freeze(&self) {
        self.shared.switch.freeze(true);
    }

    /// Resumes forwarding.
    pub fn thaw(&self) {
        self.shared.switch.thaw();
    }

    /// Closes the open connections.
    pub fn cut_connections(&self) {
        self.shared.switch.cut();
    }

    /// Sets whether new connections are closed at once.
    pub fn refuse_connections(&self, refuse: bool) {
        self.shared.switch.refuse(refuse);
    }

    /// Returns the number of connections that were opened so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.switch.opened()
    }

    // Received requests.

    /// Returns all requests so far, in the order of their arrival.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Removes the requests so far, and returns them.
    pub fn take_received(&self) -> Vec<Received> {
        std::mem::take(&mut *self.shared.received.lock().unwrap())
    }

    /// Waits for a request that matches.
    ///
    /// # Panics
    /// If there is none within 30 s.
    pub async fn wait_for(&self, matches: impl Fn(&Received) -> bool) -> Received {
        let mut count = self.shared.count.subscribe();
        let found = async {
            loop {
                count.borrow_and_update();
                if let Some(found) = self.received().into_iter().find(&matches) {
                    return found;
                }
                count.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(30), found).await;
        found.unwrap_or_else(|_| panic!("no such request: {:#?}", self.received()))
    }
}

fn kubeconfig(address: SocketAddr) -> tempfile::TempPath {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": format!("http://{address}")}}],
        "contexts": [{"name": "fake", "context": {
            "cluster": "fake", "user": "fake", "namespace": NAMESPACE,
        }}],
        "users": [{"name": "fake", "user": {}}],
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config.to_string()).unwrap();
    file.into_temp_path()
}
