//! Packet filter rules that the CNI plugins leave behind.
//!
//! The Docker instances are told to leave the filter alone: several daemons would flush each
//! other's chains, and published ports work through their proxies. Podman and containerd
//! publish ports through the portmap plugin, which makes chains of its own: one for each
//! container, which names the container's address, and three for all of them.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::net::Subnet;
use crate::process::run;

/// The chains that portmap shares among all containers. They are in the nat table, as
/// everything here.
const SHARED: [&str; 3] = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"];

/// The chains of CNI plugins that are there now.
pub(crate) fn chains() -> Vec<String> {
    rules()
        .lines()
        .filter_map(|line| line.strip_prefix("-N "))
        .filter(|chain| chain.starts_with("CNI-"))
        .map(str::to_owned)
        .collect()
}

/// Removes the published ports of containers in this network.
pub(crate) fn remove_ports_of(subnet: Subnet) {
    apply(&removal_of_ports(&rules(), subnet));
}

/// Removes the shared chains, unless they were there `before` or a container still uses them.
pub(crate) fn clean(before: &[String]) {
    let rules_now = rules();
    let unused = unused_ports(&rules_now);
    let unused = unused.into_iter().filter(|chain| !before.iter().any(|had| had == chain));
    apply(&removal_of_chains(&rules_now, &unused.collect()));
    let now = chains();
    let shared = |chain: &String| SHARED.contains(&chain.as_str());
    if now.iter().any(|c| !shared(c) && !before.contains(c)) {
        return;
    }
    let ours: BTreeSet<&str> = now
        .iter()
        .filter(|chain| shared(chain) && !before.contains(chain))
        .map(String::as_str)
        .collect();
    apply(&removal_of_chains(&rules(), &ours));
}

fn rules() -> String {
    // A machine without iptables has none.
    run("iptables", &["-w", "-t", "nat", "-S"]).unwrap_or_default()
}

/// Rules come out and go in with the same quoting: nothing has to be parsed for a deletion.
fn apply(script: &str) {
    if script.is_empty() {
        return;
    }
    let child = Command::new("iptables-restore")
        .args(["--wait", "--noflush"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    if let Ok(mut child) = child {
        if let Some(mut input) = child.stdin.take() {
            let _ = write!(input, "*nat\n{script}COMMIT\n");
        }
        // What it could not remove is found by whoever compares before and after.
        let _ = child.wait();
    }
}

fn removal_of_ports(rules: &str, subnet: Subnet) -> String {
    let chains = rules
        .lines()
        .filter_map(|line| line.strip_prefix("-A "))
        .filter(|rule| {
            rule.rsplit_once("--to-destination ")
                .and_then(|(_, target)| target.split(':').next()?.parse().ok())
                .is_some_and(|address| subnet.contains(address))
        })
        .filter_map(|rule| rule.split(' ').next())
        .filter(|chain| chain.starts_with("CNI-DN-"))
        .collect();
    removal_of_chains(rules, &chains)
}

/// The chains of ports that a plugin has made and not come to fill, because it was killed.
fn unused_ports(rules: &str) -> BTreeSet<&str> {
    let used = |chain: &str| {
        rules
            .lines()
            .filter_map(|line| line.strip_prefix("-A "))
            .any(|rule| rule.split(' ').any(|word| word == chain))
    };
    rules
        .lines()
        .filter_map(|line| line.strip_prefix("-N "))
        .filter(|chain| chain.starts_with("CNI-DN-") && !used(chain))
        .collect()
}

/// Deletes the rules that jump to these chains from elsewhere, then the chains.
fn removal_of_chains(rules: &str, chains: &BTreeSet<&str>) -> String {
    let mut script = String::new();
    for rule in rules.lines().filter_map(|line| line.strip_prefix("-A ")) {
        let from = rule.split(' ').next().unwrap_or_default();
        let to = rule.rsplit_once("-j ").map_or("", |(_, target)| target);
        if chains.contains(to) && !chains.contains(from) {
            script.push_str(&format!("-D {rule}\n"));
        }
    }
    // They jump to each other: all are emptied before the first is deleted.
    for action in ["-F", "-X"] {
        for chain in chains {
            script.push_str(&format!("{action} {chain}\n"));
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"-P PREROUTING ACCEPT
-N CNI-DN-aa
-N CNI-DN-bb
-N CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A CNI-DN-aa -d 127.0.0.1/32 -p tcp --dport 1 -j DNAT --to-destination 10.240.48.5:80
-A CNI-DN-bb -d 127.0.0.1/32 -p tcp --dport 2 -j DNAT --to-destination 10.88.0.5:80
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"podman\" id: \"f\"" -j CNI-DN-aa
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"other\" id: \"g\"" -j CNI-DN-bb
"#;

    #[test]
    fn only_ports_of_our_network_go() {
        assert_eq!(
            removal_of_ports(RULES, Subnet::new(240, 3)),
            "-D CNI-HOSTPORT-DNAT -p tcp -m comment --comment \
             \"dnat name: \\\"podman\\\" id: \\\"f\\\"\" -j CNI-DN-aa\n\
             -F CNI-DN-aa\n-X CNI-DN-aa\n"
        );
        assert_eq!(removal_of_ports(RULES, Subnet::new(240, 4)), "");
    }

    #[test]
    fn a_chain_without_a_rule_is_of_no_use() {
        assert!(unused_ports(RULES).is_empty());
        let rules = format!("{RULES}-N CNI-DN-cc\n-N OTHER\n");
        assert_eq!(unused_ports(&rules), BTreeSet::from(["CNI-DN-cc"]));
    }

    #[test]
    fn jumps_between_the_removed_chains_go_with_them() {
        let chains = BTreeSet::from(["CNI-DN-aa", "CNI-HOSTPORT-DNAT"]);
        assert_eq!(
            removal_of_chains(RULES, &chains),
            "-D OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
             -F CNI-DN-aa\n-F CNI-HOSTPORT-DNAT\n-X CNI-DN-aa\n-X CNI-HOSTPORT-DNAT\n"
        );
    }
}
