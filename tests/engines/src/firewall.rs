//! Packet filter rules that CNI plugins leave behind.
//!
//! The Docker instances do not use the packet filter: several daemons would flush each other's
//! chains, and published ports work through proxies. Podman and containerd publish ports through
//! the portmap plugin, which creates one chain per container, with the container's address, and
//! three shared chains.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::net::Subnet;
use crate::process::run;

/// Chains that portmap shares among all containers. This module uses the nat table only.
const SHARED: [&str; 3] = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"];

/// Returns the existing chains of CNI plugins.
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

/// Removes the shared chains, unless they existed `before` or a container still uses them.
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
    // A machine without iptables has no rules.
    run("iptables", &["-w", "-t", "nat", "-S"]).unwrap_or_default()
}

/// Rules are read and written with the same quoting, so deletions need no parsing.
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
        // Callers that compare before and after detect rules that were not removed.
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

/// Returns the chains of ports that a plugin created but did not fill, because it was killed.
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

/// Returns the script that deletes the rules that jump to these chains from elsewhere, then the
/// chains.
fn removal_of_chains(rules: &str, chains: &BTreeSet<&str>) -> String {
    let mut script = String::new();
    for rule in rules.lines().filter_map(|line| line.strip_prefix("-A ")) {
        let from = rule.split(' ').next().unwrap_or_default();
        let to = rule.rsplit_once("-j ").map_or("", |(_, target)| target);
        if chains.contains(to) && !chains.contains(from) {
            script.push_str(&format!("-D {rule}\n"));
        }
    }
    // The chains can jump to each other, so all are emptied before any is deleted.
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
    fn removal_deletes_only_ports_of_network() {
        assert_eq!(
            removal_of_ports(RULES, Subnet::new(240, 3)),
            "-D CNI-HOSTPORT-DNAT -p tcp -m comment --comment \
             \"dnat name: \\\"podman\\\" id: \\\"f\\\"\" -j CNI-DN-aa\n\
             -F CNI-DN-aa\n-X CNI-DN-aa\n"
        );
        assert_eq!(removal_of_ports(RULES, Subnet::new(240, 4)), "");
    }

    #[test]
    fn chain_without_rule_is_unused() {
        assert!(unused_ports(RULES).is_empty());
        let rules = format!("{RULES}-N CNI-DN-cc\n-N OTHER\n");
        assert_eq!(unused_ports(&rules), BTreeSet::from(["CNI-DN-cc"]));
    }

    #[test]
    fn removal_deletes_jumps_to_chains() {
        let chains = BTreeSet::from(["CNI-DN-aa", "CNI-HOSTPORT-DNAT"]);
        assert_eq!(
            removal_of_chains(RULES, &chains),
            "-D OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
             -F CNI-DN-aa\n-F CNI-HOSTPORT-DNAT\n-X CNI-DN-aa\n-X CNI-HOSTPORT-DNAT\n"
        );
    }
}
