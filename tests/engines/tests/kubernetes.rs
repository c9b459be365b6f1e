//! A cluster starts in a new directory, runs pods, survives the loss of each component, and stops
//! while it is broken, without leftovers.

mod all_down;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use all_down::AllDown;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use test_engines::{BUSYBOX, Cluster, Component, Engine, Footprint, HOLLOW, NODE, Site};

const USER: &str = "runtime";

fn until<T>(what: &str, limit: u64, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(limit), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// State shared by the tests of one cluster.
struct Subject {
    cluster: Cluster,
    image: String,
    /// The directory of pod logs on the host.
    logs: PathBuf,
}

impl Subject {
    fn create(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "main",
                    "image": self.image,
                    "command": ["sh", "-c", script],
                }],
            },
        });
        change(&mut pod["spec"]);
        self.cluster
            .kubectl_as(USER, &["create", "--validate=false", "-f", "-"], &pod.to_string())
            .expect("a pod");
    }

    fn user(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl_as(USER, arguments, "")
    }

    fn pod(&self, name: &str) -> Value {
        let text = self.user(&["get", "pod", name, "-o", "json"]).expect("the pod");
        serde_json::from_str(&text).expect("JSON")
    }

    fn wait_for_phase(&self, name: &str, phase: &str) -> Value {
        until(&format!("{name} to be {phase}"), 60, || {
            Some(self.pod(name)).filter(|pod| pod["status"]["phase"] == phase)
        })
    }
}

fn get(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn refused(answer: Result<String>, word: &str) {
    let error = format!("{:#}", answer.expect_err("a refusal"));
    assert!(error.contains(word), "{error}");
}

fn runs_pods(subject: &Subject, port: u16) {
    subject.create("one", "echo hello; exit 0", |_| ());
    subject.wait_for_phase("one", "Succeeded");
    assert_eq!(subject.user(&["logs", "one"]).expect("logs"), "hello\n");

    let serve = "mkdir /w; echo published > /w/index.html; exec httpd -f -p 80 -h /w";
    subject.create("web", serve, |spec| {
        spec["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": port}]);
    });
    subject.wait_for_phase("web", "Running");
    let page = until("the published port", 20, || get(port).ok());
    assert!(page.ends_with("published\n"), "{page}");

    assert_eq!(subject.user(&["exec", "web", "--", "echo", "inside"]).expect("exec"), "inside\n");
    refused(subject.user(&["exec", "web", "--", "sh", "-c", "exit 7"]), "exit code 7");
    // The logs are on the host at the path that the engine reports.
    let uid = subject.pod("web")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let log = subject.logs.join(format!("runtime-test_web_{uid}/main/0.log"));
    assert!(log.exists(), "{}", log.display());
}

fn gives_no_more_rights_than_asked(subject: &Subject) {
    let cluster = &subject.cluster;
    refused(subject.user(&["get", "pods", "--namespace", "default"]), "Forbidden");
    refused(subject.user(&["get", "nodes"]), "Forbidden");
    refused(subject.user(&["get", "configmaps"]), "Forbidden");
    let summary = format!("/api/v1/nodes/{NODE}/proxy/stats/summary");
    refused(subject.user(&["get", "--raw", &summary]), "Forbidden");
    let stats = cluster.kubectl_as("runtime-stats", &["get", "--raw", &summary], "");
    assert!(stats.expect("statistics").contains("\"nodeName\""));

    cluster.add_account("other").expect("an account");
    let other = || cluster.kubectl_as("other", &["get", "pods"], "");
    other().expect("the same rights");
    cluster.revoke_account("other").expect("revoked");
    let error = until("the end of the token", 30, || other().err());
    assert!(format!("{error:#}").contains("Unauthorized"), "{error:#}");
}

fn survives_the_loss_of_each_part(subject: &Subject, port: u16) {
    let cluster = &subject.cluster;
    let before = subject.pod("web");
    for component in Component::ALL {
        let process = cluster.process(component).expect("a process");
        cluster.kill(component).expect("killed");
        assert!(!process.is_alive());
        if component == Component::ApiServer {
            subject.user(&["get", "pods"]).expect_err("the component is dead");
        }
        cluster.restart(component).expect("restarted");
        assert_ne!(cluster.process(component).expect("a process"), process);
        cluster.wait_until_ready().expect("ready");
    }
    let etcd = cluster.process(Component::Etcd).expect("etcd");
    etcd.freeze().expect("frozen");
    subject.user(&["get", "pods", "--request-timeout=2s"]).expect_err("no answer");
    etcd.thaw().expect("thawed");
    cluster.wait_until_ready().expect("ready");
    // The pod was not affected, and the node accepts new pods.
    let status = &subject.pod("web")["status"]["containerStatuses"];
    assert_eq!(*status, before["status"]["containerStatuses"]);
    assert!(get(port).expect("the published port").ends_with("published\n"));
    subject.create("two", "exit 0", |_| ());
    subject.wait_for_phase("two", "Succeeded");
}

fn has_hollow_nodes(subject: &Subject) {
    let cluster = &subject.cluster;
    let names = cluster.hollow_nodes(2).expect("hollow nodes");
    assert_eq!(names, ["hollow-1", "hollow-2"]);
    let tolerant = |spec: &mut Value| {
        spec["nodeSelector"] = json!({HOLLOW: "true"});
        spec["tolerations"] =
            json!([{"key": HOLLOW, "operator": "Exists", "effect": "NoSchedule"}]);
    };
    let mut nodes = BTreeSet::new();
    for number in 0..4 {
        let name = format!("hollow-pod-{number}");
        subject.create(&name, "true", tolerant);
        let pod = subject.wait_for_phase(&name, "Running");
        nodes.insert(pod["spec"]["nodeName"].as_str().expect("a node").to_owned());
    }
    assert_eq!(Vec::from_iter(nodes), names);

    cluster.kill_hollow_node("hollow-2").expect("killed");
    until("the cluster to miss the node", 90, || {
        let text = cluster.kubectl(&["get", "node", "hollow-2", "-o", "json"]).expect("the node");
        let node: Value = serde_json::from_str(&text).expect("JSON");
        node["status"]["conditions"]
            .as_array()?
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "Unknown")
            .then_some(())
    });
    cluster.hollow_nodes(2).expect("both again");
    cluster.remove_hollow_nodes().expect("removed");
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "name"]).expect("nodes");
    assert_eq!(nodes.trim(), format!("node/{NODE}"));
}

/// Returns the settings that a kubelet overwrites.
fn settings() -> Result<Vec<String>> {
    ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"]
        .iter()
        .map(|name| fs::read_to_string(Path::new("/proc/sys").join(name)).context(*name))
        .collect()
}

/// Returns the packet filter rules of the machine, because chains of Kubernetes do not contain a
/// site's name. A bare machine has no iptables before an engine is installed, and therefore no
/// rules.
fn filter_rules() -> String {
    match Command::new("iptables-save").output() {
        Ok(saved) => String::from_utf8_lossy(&saved.stdout).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => panic!("iptables-save: {error}"),
    }
}

fn leaves_nothing(site: &Site, settings_before: &[String]) {
    assert!(!Footprint::now().expect("a look").of(site).is_empty());
    site.down(Engine::Kubernetes).expect("down");
    site.down(Engine::Registry).expect("down");
    let left = Footprint::now().expect("a look").of(site);
    assert!(left.is_empty(), "left: {left:#?}");
    assert!(!site.root().join("host.json").exists());
    assert_eq!(settings().expect("settings"), settings_before);
    let rules = filter_rules();
    assert!(!rules.contains("KUBE-"), "{rules}");
    let logs = fs::read_link("/var/log/pods");
    assert!(!logs.is_ok_and(|target| target.starts_with(site.root())));
}

#[test]
fn cluster_runs_pods_survives_faults_and_leaves_nothing() {
    let settings = settings().expect("settings");
    assert!(!filter_rules().contains("KUBE-"), "this machine is a node of another cluster");
    let dir = tempfile::tempdir().expect("a directory");
    let site = Site::at(dir.path()).expect("a site");
    let _all_down = AllDown(&site);
    let cluster = Cluster::at(&site);
    let running = cluster.up().expect("the cluster");
    assert!(running.version().starts_with("1."), "{}", running.version());
    let again = cluster.up().expect("the same cluster");
    assert_eq!(running.process(), again.process());
    let variables: BTreeMap<_, _> = running.variables().expect("variables").into_iter().collect();
    let image = format!("{}/{BUSYBOX}", variables["RUNTIME_TEST_REGISTRY"]);
    let logs = PathBuf::from(&variables["RUNTIME_TEST_NODE_LOGS"]);
    let subject = Subject { cluster, image, logs };
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();

    runs_pods(&subject, port);
    gives_no_more_rights_than_asked(&subject);
    survives_the_loss_of_each_part(&subject, port);
    has_hollow_nodes(&subject);

    // All components that could clean up are dead, while a pod with a published port runs.
    for component in Component::ALL {
        subject.cluster.kill(component).expect("killed");
    }
    leaves_nothing(&site, &settings);
    subject.cluster.up().expect("the cluster once more");
    subject.cluster.hollow_nodes(1).expect("a hollow node");
    leaves_nothing(&site, &settings);
}
