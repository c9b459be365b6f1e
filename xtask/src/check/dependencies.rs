//! Rules for dependencies: reachable packages, licences, duplicates, the minimum Rust version.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};
use cargo_metadata::semver::VersionReq;
use cargo_metadata::{DependencyKind, Metadata, Node, Package, PackageId};
use spdx::{Expression, LicenseReq, Licensee, ParseMode};

use super::policy::{Policy, Skip};
use crate::workspace::{cargo, metadata};

/// Packages that a crate must not depend on by any path, and with any features except those of
/// [`OPTIONAL`].
const UNREACHABLE: [(&str, &[&str]); 5] = [
    (
        "runtime-core",
        &[
            "tokio",
            "hyper",
            "http",
            "bollard",
            "kube",
            "k8s-openapi",
            "tonic",
            "prost",
            "runtime-support",
            "runtime-docker",
            "runtime-cri",
            "runtime-k8s",
        ],
    ),
    (
        "runtime-support",
        &[
            "bollard",
            "kube",
            "k8s-openapi",
            "tonic",
            "prost",
            "runtime-docker",
            "runtime-cri",
            "runtime-k8s",
        ],
    ),
    ("runtime-docker", &["kube", "k8s-openapi", "tonic", "prost", "runtime-cri", "runtime-k8s"]),
    ("runtime-cri", &["bollard", "kube", "k8s-openapi", "runtime-docker", "runtime-k8s"]),
    ("runtime-k8s", &["bollard", "tonic", "prost", "runtime-docker", "runtime-cri"]),
];

/// Dependencies that are enabled only by a feature.
const OPTIONAL: [(&str, &str); 1] = [("runtime-k8s", "runtime-cri")];

/// Features of the CLI and their backends. With one of them alone, packages that its backend must
/// not reach are not dependencies of the CLI either.
const BACKENDS: [(&str, &str); 3] =
    [("docker", "runtime-docker"), ("cri", "runtime-cri"), ("k8s", "runtime-k8s")];

pub fn check() -> Result<()> {
    let policy = Policy::read()?;
    let metadata = metadata(&policy.graph.targets)?;
    let graph = Graph::new(&metadata)?;
    let mut faults = Vec::new();
    faults.extend(graph.unreachable_faults());
    for (feature, backend) in BACKENDS {
        faults.extend(with_one_backend(feature, backend)?);
    }
    faults.extend(licences(&graph, &policy.licenses.allow)?);
    faults.extend(duplicates(&graph, &policy.bans.skip)?);
    faults.extend(too_new(&graph));
    faults.extend(sources(&graph));
    for fault in &faults {
        println!("{fault}");
    }
    ensure!(faults.is_empty(), "{} faults", faults.len());
    Ok(())
}

/// Packages that are built for our targets, and their edges.
struct Graph<'a> {
    packages: BTreeMap<&'a PackageId, &'a Package>,
    nodes: HashMap<&'a PackageId, &'a Node>,
    members: &'a [PackageId],
}

impl<'a> Graph<'a> {
    fn new(metadata: &'a Metadata) -> Result<Self> {
        let resolve = metadata.resolve.as_ref().context("cargo resolved no dependencies")?;
        let nodes: HashMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
        Ok(Self {
            packages: metadata
                .packages
                .iter()
                .filter(|package| nodes.contains_key(&package.id))
                .map(|package| (&package.id, package))
                .collect(),
            nodes,
            members: &metadata.workspace_members,
        })
    }

    fn is_ours(&self, package: &Package) -> bool {
        self.members.contains(&package.id)
    }

    /// Returns all transitive dependencies of a package, each with the package that depends on it.
    /// Development dependencies are not included.
    fn closure(&self, start: &'a PackageId) -> BTreeMap<&'a PackageId, &'a PackageId> {
        let mut found = BTreeMap::new();
        let mut open = vec![start];
        while let Some(id) = open.pop() {
            let deps = self.nodes.get(id).map_or(&[][..], |node| &node.deps);
            for dep in deps {
                let is_included =
                    dep.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development);
                let is_optional = self.is_optional(id, self.name(&dep.pkg));
                if is_included && !is_optional && !found.contains_key(&dep.pkg) {
                    found.insert(&dep.pkg, id);
                    open.push(&dep.pkg);
                }
            }
        }
        found
    }

    /// Returns true if a package is a dependency only through a feature that is off by default.
    fn is_optional(&self, of: &PackageId, name: &str) -> bool {
        let Some(package) = self.packages.get(of) else { return false };
        let on_by_default = package.features.get("default").is_some_and(|on| !on.is_empty());
        !on_by_default
            && OPTIONAL.contains(&(package.name.as_str(), name))
            && package
                .dependencies
                .iter()
                .filter(|dep| dep.name == name && dep.kind == DependencyKind::Normal)
                .all(|dep| dep.optional)
    }

    fn name(&self, id: &PackageId) -> &str {
        self.packages.get(id).map_or("?", |package| package.name.as_str())
    }

    fn unreachable_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (ours, forbidden) in UNREACHABLE {
            let Some(package) = self
                .packages
                .values()
                .find(|package| package.name == ours && self.is_ours(package))
            else {
                // The crate does not exist yet.
                continue;
            };
            for (id, parent) in self.closure(&package.id) {
                let name = self.name(id);
                if forbidden.contains(&name) {
                    let parent = self.name(parent);
                    faults.push(format!("{ours} must not reach {name} (through {parent})"));
                }
            }
        }
        faults
    }

    fn foreign(&self) -> impl Iterator<Item = &'a Package> {
        self.packages.values().copied().filter(|package| !self.is_ours(package))
    }
}

/// Returns the forbidden dependencies of the CLI with one backend.
fn with_one_backend(feature: &str, backend: &str) -> Result<Vec<String>> {
    let reached = cli_dependencies(feature)?;
    ensure!(reached.contains(backend), "runtime-cli with {feature} does not reach {backend}");
    let rules = UNREACHABLE.iter().filter(|(ours, _)| *ours == backend);
    let forbidden = rules.flat_map(|(_, forbidden)| *forbidden);
    Ok(forbidden
        .filter(|name| reached.contains(**name))
        .map(|name| format!("runtime-cli with only {feature} must not reach {name}"))
        .collect())
}

/// Returns the packages of the CLI with only this feature; [`Graph`] has all features on.
fn cli_dependencies(feature: &str) -> Result<BTreeSet<String>> {
    let output = cargo(&["tree", "--package", "runtime-cli", "--no-default-features"])
        .args(["--features", feature, "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn licences(graph: &Graph<'_>, allow: &[String]) -> Result<Vec<String>> {
    let allowed = allow
        .iter()
        .map(|name| Licensee::parse(name).with_context(|| format!("the licence {name}")))
        .collect::<Result<Vec<_>>>()?;
    let passes = |req: &LicenseReq| allowed.iter().any(|licensee| licensee.satisfies(req));
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    for package in graph.packages.values() {
        let Some(text) = &package.license else {
            faults.push(format!("{} has no licence", package.name));
            continue;
        };
        // Old packages use `MIT/Apache-2.0`.
        let expression = Expression::parse_mode(text, ParseMode::LAX)
            .with_context(|| format!("the licence of {}", package.name))?;
        if !expression.evaluate(passes) {
            faults.push(format!("{} {}: licence {text}", package.name, package.version));
        }
        for requirement in expression.requirements() {
            used.extend(
                allowed
                    .iter()
                    .filter(|licensee| licensee.satisfies(&requirement.req))
                    .map(ToString::to_string),
            );
        }
    }
    faults.extend(
        allowed
            .iter()
            .filter(|licensee| !used.contains(&licensee.to_string()))
            .map(|licensee| format!("deny.toml allows {licensee}, which is not used")),
    );
    Ok(faults)
}

fn duplicates(graph: &Graph<'_>, skip: &[Skip]) -> Result<Vec<String>> {
    let mut versions: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
    for package in graph.foreign() {
        versions.entry(&package.name).or_default().push(package);
    }
    let mut accepted = Vec::new();
    for entry in skip {
        ensure!(!entry.reason.is_empty(), "{}: missing reason", entry.package);
        let (name, version) = entry
            .package
            .split_once('@')
            .with_context(|| format!("{}: missing version", entry.package))?;
        accepted.push((name, VersionReq::parse(version)?, false));
    }
    let mut faults = Vec::new();
    for (name, packages) in versions.into_iter().filter(|(_, all)| all.len() > 1) {
        let left: Vec<_> = packages
            .iter()
            .filter(|package| {
                let entry = accepted
                    .iter_mut()
                    .find(|(n, req, _)| *n == name && req.matches(&package.version));
                entry.is_none_or(|(_, _, used)| {
                    *used = true;
                    false
                })
            })
            .map(|package| package.version.to_string())
            .collect();
        if left.len() > 1 {
            faults.push(format!(
                "{name} has versions {}, without a reason in deny.toml",
                left.join(" and ")
            ));
        }
    }
    faults.extend(accepted.iter().filter(|(_, _, used)| !used).map(|(name, version, _)| {
        format!("deny.toml skips {name}@{version}, which is not needed")
    }));
    Ok(faults)
}

/// Returns packages that require a newer Rust than the workspace.
fn too_new(graph: &Graph<'_>) -> Vec<String> {
    let ours = graph
        .packages
        .values()
        .filter(|package| graph.is_ours(package))
        .filter_map(|package| package.rust_version.as_ref())
        .min();
    graph
        .foreign()
        .filter(|package| package.rust_version.as_ref() > ours)
        .map(|package| {
            format!(
                "{} {} needs Rust {}",
                package.name,
                package.version,
                package.rust_version.as_ref().map_or_else(String::new, ToString::to_string)
            )
        })
        .collect()
}

/// Returns packages that are not from crates.io.
fn sources(graph: &Graph<'_>) -> Vec<String> {
    graph
        .foreign()
        .filter(|package| !package.source.as_ref().is_some_and(|s| s.is_crates_io()))
        .map(|package| format!("{} is from {:?}", package.name, package.source))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a rule that passes because it checks the wrong place.
    #[test]
    fn closure_contains_transitive_dependencies() {
        let metadata = metadata(&[]).unwrap();
        let graph = Graph::new(&metadata).unwrap();
        let reached = |name: &str| -> BTreeSet<&str> {
            let package = graph.packages.values().find(|package| package.name == name).unwrap();
            graph.closure(&package.id).into_keys().map(|id| graph.name(id)).collect()
        };
        // Direct and transitive dependencies, without those of tests.
        assert!(reached("runtime-docker").contains("bollard"));
        assert!(reached("runtime-docker").contains("hyper"));
        assert!(reached("xtask").contains("serde_core"));
        assert!(!reached("test-engines").contains("tempfile"));
        // Optional dependencies are excluded, others are not.
        assert!(!reached("runtime-k8s").contains("runtime-cri"));
        assert!(reached("runtime-cli").contains("runtime-cri"));
    }

    #[test]
    fn cli_with_one_backend_has_no_forbidden_dependency() {
        assert!(cli_dependencies("cri").unwrap().contains("tonic"));
        assert!(cli_dependencies("docker,cri").unwrap().contains("bollard"));
        for (feature, backend) in BACKENDS {
            assert_eq!(with_one_backend(feature, backend).unwrap(), [""; 0]);
        }
        assert!(!with_one_backend("docker,cri", "runtime-docker").unwrap().is_empty());
    }

    #[test]
    fn licence_outside_allow_list_is_a_fault() {
        let metadata = metadata(&[]).unwrap();
        let graph = Graph::new(&metadata).unwrap();
        let faults = licences(&graph, &["Apache-2.0".to_owned()]).unwrap();
        assert!(faults.iter().any(|fault| fault.contains("licence MIT")), "{faults:?}");
    }
}
