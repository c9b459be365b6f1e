//! Hollow nodes: real kubelets with a simulated engine.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::binaries;
use super::layout::{Layout, hollow_ports};
use super::members::{self, Launch, Members};
use super::{LOG_NAME, kubectl};
use crate::poll;
use crate::site::Site;

/// Label of a hollow node, and key of its taint: only pods that tolerate `runtime-test/hollow` with
/// the effect `NoSchedule` are scheduled on one.
pub const HOLLOW: &str = "runtime-test/hollow";

/// Starts hollow nodes until `count` are ready; returns the names of all.
pub(crate) fn add(site: &Site, count: usize) -> Result<Vec<String>> {
    let _lock = site.lock("kubernetes-hollow")?;
    let layout = Layout::of(site);
    let there = Members::read(&layout)?.by_name;
    let names: Vec<String> = (1..=count).map(name).collect();
    let mut ports = hollow_ports(site);
    for name in &names {
        match there.get(name) {
            Some(member) if member.process.is_alive() => {}
            Some(_) => drop(members::restart(site, name)?),
            None => {
                let port = ports.next().context("no free port for a hollow kubelet")?;
                start(site, &layout, name, port)?;
            }
        }
    }
    wait_until_ready(site, &layout, &names)?;
    Ok(names)
}

fn name(number: usize) -> String {
    format!("hollow-{number}")
}

/// Script: `$0` is the directory of the node, `$1` the program.
///
/// The simulated engine listens at a fixed path in `/tmp`. With a shared `/tmp`, every kubelet
/// would use the engine of the last one. The program itself may be below `/tmp`. If the kubelet
/// found `iptables`, it would create chains in the machine's packet filter.
const PRIVATE_TMP_SCRIPT: &str = r#"
cd "$0"
: > kubemark
mount --bind "$1" kubemark
shift
mount --bind . /tmp
export PATH=/nowhere
exec ./kubemark "$@"
"#;

fn start(site: &Site, layout: &Layout, name: &str, port: u16) -> Result<()> {
    let home = layout.file("hollow").join(name);
    fs::create_dir_all(&home)?;
    fs::copy(layout.admin(), home.join("kubeconfig"))?;
    let mut command: Vec<String> =
        ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", PRIVATE_TMP_SCRIPT]
            .map(str::to_owned)
            .to_vec();
    command.extend([
        home.to_string_lossy().into_owned(),
        binaries::find()?.path("kubemark"),
        "--morph=kubelet".to_owned(),
        format!("--name={name}"),
        "--kubeconfig=/tmp/kubeconfig".to_owned(),
        format!("--kubelet-port={port}"),
        "--kubelet-read-only-port=0".to_owned(),
        format!("--node-labels={HOLLOW}=true"),
        format!("--register-with-taints={HOLLOW}=true:NoSchedule"),
    ]);
    let environment = Vec::new();
    members::launch(site, Launch { name, command, environment, keeper: None }).map(drop)
}

fn wait_until_ready(site: &Site, layout: &Layout, names: &[String]) -> Result<()> {
    let limit = Duration::from_secs(60 + 6 * names.len() as u64);
    let mut told = 0;
    poll::until(limit, "the hollow nodes to be ready", || {
        let ready = ready_nodes(layout)?;
        let count = names.iter().filter(|name| ready.contains(*name)).count();
        if count >= told + 10 {
            crate::log_progress(
                LOG_NAME,
                &format!("{count} of {} hollow nodes are ready", names.len()),
            );
            told = count;
        }
        if count < names.len() {
            let members = Members::read(layout)?;
            for name in names {
                anyhow::ensure!(
                    members.get(name)?.process.is_alive(),
                    "{name} exited:\n{}",
                    crate::keeper::tail(&members::log(site, name))
                );
            }
        }
        Ok((count == names.len()).then_some(()))
    })
}

fn ready_nodes(layout: &Layout) -> Result<BTreeSet<String>> {
    let printed = kubectl::admin(layout)?
        .arguments(["get", "nodes", "-o"])
        .arguments([concat!(
            "jsonpath={range .items[*]}{.metadata.name} ",
            "{.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}"
        )])
        .run()?;
    Ok(printed.lines().filter_map(|line| line.strip_suffix(" True")).map(str::to_owned).collect())
}

/// Stops a hollow node and deletes it from the cluster.
pub(crate) fn remove(site: &Site, name: &str) -> Result<()> {
    let layout = Layout::of(site);
    members::remove(site, name)?;
    kubectl::admin(&layout)?.arguments(["delete", "node", name, "--ignore-not-found"]).run()?;
    let home = layout.file("hollow").join(name);
    if home.exists() {
        fs::remove_dir_all(home)?;
    }
    Ok(())
}

/// Returns the recorded hollow nodes, running or not.
pub(crate) fn all(site: &Site) -> Result<Vec<String>> {
    let known = Members::read(&Layout::of(site))?.by_name;
    Ok(known.into_keys().filter(|name| name.starts_with("hollow-")).collect())
}
