//! Packet filter rules that the CNI plugins leave behind.
//!
//! The Docker instances are told to leave the filter alone: several daemons would flush each
//! other's chains, and published ports work through their proxies. Podman and containerd
//! publish ports through the portmap plugin, which makes chains of its own. The rules of a
//! container go with the container, the chains stay.

use std::collections::BTreeSet;

use crate::net::Subnet;
use crate::process::run;

/// The chains that portmap makes, and the chains that jump to them, all in the nat table.
const OURS: [&str; 3] = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"];

/// The chains of the nat table that CNI plugins use and that are there now.
pub(crate) fn chains() -> Vec<String> {
    rules()
        .lines()
        .filter_map(|line| line.strip_prefix("-N "))
        .filter(|chain| chain.starts_with("CNI-"))
        .map(str::to_owned)
        .collect()
}

fn rules() -> String {
    run("iptables", &["-w", "-t", "nat", "-S"]).unwrap_or_default()
}

/// Removes the published ports of containers in this network.
pub(crate) fn remove_ports_of(subnet: Subnet) {
    let rules = rules();
    // portmap makes a chain for each container, which names the container's address.
    let chains: BTreeSet<&str> = rules
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
    for chain in &chains {
        remove_jumps(&rules, |target| target == *chain);
        flush_and_delete(chain);
    }
}

fn remove_jumps(rules: &str, to: impl Fn(&str) -> bool) {
    for rule in rules.lines() {
        let target = rule.rsplit_once("-j ").map(|(_, target)| target);
        if let Some(rest) = rule.strip_prefix("-A ")
            && target.is_some_and(&to)
        {
            let mut args = vec!["-w", "-t", "nat", "-D"];
            let words = split(rest);
            args.extend(words.iter().map(String::as_str));
            let _ = run("iptables", &args);
        }
    }
}

fn flush_and_delete(chain: &str) {
    for action in ["-F", "-X"] {
        let _ = run("iptables", &["-w", "-t", "nat", action, chain]);
    }
}

/// Removes the chains that were not there `before` and that nothing uses any more.
pub(crate) fn clean(before: &[String]) {
    let now = chains();
    // A chain of a single container: somebody still uses the common ones.
    if now.iter().any(|c| !OURS.contains(&c.as_str()) && !before.contains(c)) {
        return;
    }
    let ours: Vec<_> = OURS
        .into_iter()
        .filter(|c| now.iter().any(|n| n == c) && !before.iter().any(|b| b == c))
        .collect();
    remove_jumps(&rules(), |target| ours.contains(&target));
    // The chains jump to each other: all are emptied before the first is deleted.
    for chain in &ours {
        let _ = run("iptables", &["-w", "-t", "nat", "-F", chain]);
    }
    ours.iter().for_each(|chain| flush_and_delete(chain));
}

/// Splits a printed rule into arguments; comments are the only quoted ones.
fn split(rule: &str) -> Vec<String> {
    rule.split('"')
        .enumerate()
        .flat_map(|(index, part)| match index % 2 {
            0 => part.split_ascii_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_comment_stays_one_argument() {
        assert_eq!(
            split(r#"POSTROUTING -m comment --comment "CNI portmap" -j X"#),
            ["POSTROUTING", "-m", "comment", "--comment", "CNI portmap", "-j", "X"]
        );
    }
}
