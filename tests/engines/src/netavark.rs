//! Networks of netavark, and the packet filter rules that it leaves when its containers are killed.
//!
//! All rules are in one table that every Podman of the host shares. A network has chains with its
//! subnet in their names; the rules that jump to them are in shared chains.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::Result;
use serde_json::json;

use crate::net::Subnet;
use crate::process::run;

/// Package with `nft`.
pub(crate) const PACKAGE: &str = "nftables";

const TABLE: &str = "inet netavark";

/// Returns Podman's default network with the instance's bridge and addresses.
pub(crate) fn network(bridge: &str, subnet: Subnet) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(&json!({
        "name": "podman",
        // Podman accepts its default network only with this id, the SHA-256 of its name.
        "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
        "driver": "bridge",
        "network_interface": bridge,
        "created": "2000-01-01T00:00:00Z",
        "subnets": [{"subnet": subnet.network(), "gateway": subnet.host()}],
        "ipv6_enabled": false,
        "internal": false,
        "dns_enabled": false,
        "ipam_options": {"driver": "host-local"},
    }))?)
}

/// Returns the table with the handle of each chain and rule, empty if there is none.
pub(crate) fn rules() -> String {
    // Without nft there is no network either.
    run("nft", &["--handle", "list", "table", "inet", "netavark"]).unwrap_or_default()
}

/// Returns true if the table exists.
pub(crate) fn exists() -> bool {
    !rules().is_empty()
}

/// Removes the rules and chains of a network.
pub(crate) fn remove_network(subnet: Subnet, bridge: &str) {
    apply(&removal_of_network(&rules(), &subnet.network(), bridge));
}

/// Removes the table, unless a network still has a chain in it.
pub(crate) fn remove_unused() {
    if is_unused(&rules()) {
        apply(&format!("delete table {TABLE}\n"));
    }
}

fn apply(script: &str) {
    if script.is_empty() {
        return;
    }
    let child = Command::new("nft")
        .args(["--file", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    if let Ok(mut child) = child {
        if let Some(mut input) = child.stdin.take() {
            let _ = input.write_all(script.as_bytes());
        }
        // Callers that compare before and after detect rules that were not removed.
        let _ = child.wait();
    }
}

/// Returns the name of the chain that starts in this line.
fn chain_of(line: &str) -> Option<&str> {
    line.trim().strip_prefix("chain ")?.split(' ').next()
}

/// Returns true for netavark's chains of networks, such as `nv_2f259bab_10_240_160_0_nm20_dnat`.
fn is_of_a_network(chain: &str) -> bool {
    chain.starts_with("nv_")
}

fn is_unused(rules: &str) -> bool {
    !rules.is_empty() && !rules.lines().filter_map(chain_of).any(is_of_a_network)
}

fn removal_of_network(rules: &str, subnet: &str, bridge: &str) -> String {
    let part = format!("_{}", subnet.replace('.', "_").replace('/', "_nm"));
    let is_ours = |chain: &str| {
        let rest = chain.split_once(&part).map(|(_, rest)| rest);
        is_of_a_network(chain) && matches!(rest, Some("" | "_dnat"))
    };
    let (mut of_rules, mut flushes, mut deletions) = (String::new(), String::new(), String::new());
    let mut chain = "";
    for line in rules.lines() {
        if let Some(name) = chain_of(line) {
            chain = name;
            if is_ours(chain) {
                flushes.push_str(&format!("flush chain {TABLE} {chain}\n"));
                deletions.push_str(&format!("delete chain {TABLE} {chain}\n"));
            }
            continue;
        }
        let Some((rule, handle)) = line.split_once(" # handle ") else { continue };
        let mut words = rule.split_ascii_whitespace().map(|word| word.trim_matches('"'));
        if !is_ours(chain) && words.any(|word| word == subnet || word == bridge || is_ours(word)) {
            of_rules.push_str(&format!("delete rule {TABLE} {chain} handle {handle}\n"));
        }
    }
    // A chain must be empty and unused before its deletion.
    [of_rules, flushes, deletions].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"table inet netavark { # handle 3
	chain FORWARD { # handle 2
		type filter hook forward priority filter; policy accept;
		ct state invalid drop # handle 15
		ip daddr 10.240.160.0/20 ct state established,related accept # handle 21
		ip daddr 10.88.0.0/16 ct state established,related accept # handle 22
	}

	chain NETAVARK-HOSTPORT-DNAT { # handle 6
		tcp dport 8080 jump nv_2f259bab_10_240_160_0_nm20_dnat # handle 30
	}

	chain NETAVARK-ISOLATION-3 { # handle 10
		oifname "tag-10" drop # handle 17
	}

	chain nv_2f259bab_10_240_160_0_nm20 { # handle 18
		ip daddr 10.240.160.0/20 accept # handle 19
	}

	chain nv_2f259bab_10_240_160_0_nm20_dnat { # handle 28
		tcp dport 8080 dnat ip to 10.240.160.2:80 # handle 31
	}
}
"#;

    #[test]
    fn removal_deletes_rules_and_chains_of_one_network() {
        assert_eq!(
            removal_of_network(RULES, "10.240.160.0/20", "tag-10"),
            "delete rule inet netavark FORWARD handle 21\n\
             delete rule inet netavark NETAVARK-HOSTPORT-DNAT handle 30\n\
             delete rule inet netavark NETAVARK-ISOLATION-3 handle 17\n\
             flush chain inet netavark nv_2f259bab_10_240_160_0_nm20\n\
             flush chain inet netavark nv_2f259bab_10_240_160_0_nm20_dnat\n\
             delete chain inet netavark nv_2f259bab_10_240_160_0_nm20\n\
             delete chain inet netavark nv_2f259bab_10_240_160_0_nm20_dnat\n"
        );
        assert_eq!(removal_of_network(RULES, "10.240.176.0/20", "tag-11"), "");
    }

    #[test]
    fn table_is_unused_without_chains_of_networks() {
        assert!(!is_unused(RULES));
        assert!(!is_unused(""));
        assert!(is_unused(
            "table inet netavark { # handle 3\n\tchain INPUT { # handle 1\n\t}\n}\n"
        ));
    }
}
